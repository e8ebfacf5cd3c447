#!/usr/bin/env bash
# The whole system on a small simulated world, from raw text to the report:
#
#   bash scripts/quickstart.sh [WORKDIR]
#
# WORKDIR (default: runs/quickstart in the checkout) gets the checkpoints, the
# metrics and, at the end, report/index.html. After an interruption the same
# command resumes. On a CPU with two cores or more, two stages run at the same
# time where they do not need each other; the results are the same. Takes about
# 10 minutes on two CPU cores; needs Python 3.11 or newer, pip and 3 GiB of disk.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

if [ $# -gt 1 ] || [[ "${1:-}" == -* ]]; then
  die 'usage: bash scripts/quickstart.sh [WORKDIR]'
fi
workdir="${1:-$ROOT/runs/quickstart}"
need_writable "$workdir"
workdir="$(cd "$workdir" && pwd -P)"
need_space "$workdir" 1
make_env

cd "$ROOT"
backend="$("$VENV_PYTHON" -c 'import jax; print(jax.default_backend())')"
parallel=1
if [ "$backend" = cpu ]; then
  export JAX_PLATFORMS=cpu  # libtpu need not look for a TPU again
  if [ "$(nproc 2>/dev/null || echo 1)" -ge 2 ]; then
    parallel=2
  fi
fi
"$VENV_PYTHON" -m instructrl.study --parallel="$parallel" \
  --config=experiments/study.py:tiny --workdir="$workdir" &
study=$!
# Pass signals on, so that the study ends with this script: it runs in the
# background, where Ctrl-C does not reach it.
trap 'kill -TERM "$study" 2>/dev/null || true' INT TERM HUP
while kill -0 "$study" 2>/dev/null; do  # a signal ends `wait`, not the study
  wait "$study" || true
done
status=0
wait "$study" || status=$?  # bash keeps the status
if [ "$status" -ne 0 ]; then
  printf 'quickstart.sh: the study stopped with status %s; %s\n' "$status" \
    'the same command resumes' >&2
  exit "$status"
fi
cat <<END

prompts that this closed world knows:
$("$VENV_PYTHON" -m instructrl.sample "$workdir/ppo_ptx" --examples || true)

to go on (in $ROOT, after: source .venv/bin/activate):
  python -m instructrl.sample "$workdir/sft" "$workdir/ppo_ptx" --prompt "List three animals."
  python -m instructrl.sample "$workdir/ppo_ptx" --chat
  python -m instructrl.study --config=experiments/study.py:tiny --workdir="$workdir-kl" --from="$workdir" --config.stages.ppo_ptx.ppo.kl_coef=0.1
END
