#!/usr/bin/env bash
# Makes the environment and runs the tests:
#
#   bash scripts/test.sh [pytest args]         the quick tier
#   bash scripts/test.sh --all [pytest args]   the slow tier as well, and what
#                                              needs torch and transformers
#
# Paths among the arguments are relative to the root of the checkout.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

extras=test
for argument in "$@"; do
  if [ "$argument" = --all ]; then
    extras=test,hf
  fi
done
make_env "$extras"
cd "$ROOT"
exec "$VENV_PYTHON" -m pytest "$@"
