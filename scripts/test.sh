#!/usr/bin/env bash
# Makes the environment, checks style and types, and runs the tests:
#
#   bash scripts/test.sh [pytest args]         the quick tests
#   bash scripts/test.sh --all [pytest args]   the slow tests too, and those that
#                                              need torch and transformers
#
# Paths among the arguments are relative to the root of the checkout. `-n 0` runs
# all tests in one process.
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
"$VENV_PYTHON" -m ruff check --quiet
"$VENV_PYTHON" -m ruff format --check --quiet
"$VENV_PYTHON" -m mypy
# Two processes, and the tests of a file in one of them: most of a test's time is
# tracing and compiling, in one thread. Each process takes up to 4 GB. The order
# of the files is that of tests/conftest.py.
exec "$VENV_PYTHON" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
