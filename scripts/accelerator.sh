#!/usr/bin/env bash
# Checks and measures this machine's accelerator, in one run:
#
#   bash scripts/accelerator.sh [--minutes N] [--workdir DIR] [--python PATH]
#
# checks the attention kernels, host offload and 16-bit log-probabilities on the
# device, times sft, reward, generate and ppo at 125M and 1.3B parameters, and
# runs a study of size :small as far as the time allows (default: 12 minutes;
# the installation is not counted). DIR (default: runs/accelerator in the
# checkout) gets results.json, a table (results.txt), and the study. The same
# command resumes. Without an accelerator it tries everything that a CPU can do
# at a tiny shape, and gives the reason for the rest.
#
# Installs the extra `cuda` or `tpu` with the pinned versions; --python names an
# interpreter whose environment has JAX and the package's dependencies already.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

usage='usage: bash scripts/accelerator.sh [--minutes N] [--workdir DIR] [--python PATH]'
minutes=12 workdir="$ROOT/runs/accelerator" interpreter=''
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || die "$usage"
  case "$1" in
    --minutes) minutes="$2" ;;
    --workdir) workdir="$2" ;;
    --python) interpreter="$2" ;;
    *) die "$usage" ;;
  esac
  shift 2
done
[[ "$minutes" =~ ^[0-9]+$ ]] || die "--minutes must be a number; got $minutes"
need_writable "$workdir"
workdir="$(cd "$workdir" && pwd -P)"

if [ -z "$interpreter" ]; then
  extra=''
  if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    extra=cuda
  elif compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null
  then
    extra=tpu
  fi
  make_env "$extra"
  interpreter="$VENV_PYTHON"
fi
cd "$ROOT"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
exec "$interpreter" scripts/accelerator.py --minutes "$minutes" --workdir "$workdir"
