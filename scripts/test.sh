#!/usr/bin/env bash
# Makes the environment and runs the tests:
#
#   bash scripts/test.sh [pytest args]         the quick tier
#   bash scripts/test.sh --all [pytest args]   the slow tier as well
#
# Paths among the arguments are relative to the root of the checkout.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

make_env test
cd "$ROOT"
exec "$VENV_PYTHON" -m pytest "$@"
