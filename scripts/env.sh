#!/usr/bin/env bash
# Makes the virtual environment of the checkout:
#
#   bash scripts/env.sh [EXTRAS]
#
# The other scripts source this file, which then only defines:
#
#   make_env           installs the pinned dependencies (setup.py,
#                      scripts/constraints.txt)
#   make_env test      adds those of the extra `test`
#   make_env test,hf   adds torch and transformers, for comparisons
#
# Afterwards $VENV_PYTHON is the Python of the environment. A stamp file lists
# the pins that are completely installed. With the right stamp make_env does
# nothing; without a stamp, as after an interruption, it makes a new environment.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$ROOT/.venv"
VENV_PYTHON="$VENV/bin/python"
INSTALL_GIB=3

# Prints one line and ends the script.
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# need_space DIRECTORY GIB
need_space() {
  local free_kib
  free_kib="$(df -Pk "$1" | awk 'NR == 2 { print $4 }')" \
    || die "cannot tell how much disk is free in $1"
  if [ "$free_kib" -lt $(($2 * 1024 * 1024)) ]; then
    die "$2 GiB of free disk are needed in $1," \
      "there are $((free_kib / 1024)) MiB"
  fi
}

# need_writable DIRECTORY: makes it if it does not exist.
need_writable() {
  if [ -e "$1" ] && [ ! -d "$1" ]; then
    die "$1 is in the way: a directory is needed there"
  fi
  mkdir -p "$1" 2>/dev/null || die "cannot make the directory $1"
  local probe="$1/.write_probe.$$"
  if ! (: > "$probe") 2>/dev/null; then
    die "cannot write in $1"
  fi
  rm -f "$probe"
  [ -r "$1" ] && [ -x "$1" ] || die "cannot read $1"
}

# Prints the first Python that is new enough. $PYTHON, if set, is the only
# candidate.
find_python() {
  local candidate
  local candidates=(python3.11 python3.12 python3.13 python3.14 python3 python)
  if [ -n "${PYTHON:-}" ]; then
    candidates=("$PYTHON")
  fi
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  die "Python 3.11 or newer is needed; tried: ${candidates[*]}"
}

# Prints the hash of everything that decides what gets installed.
pins_hash() {
  "$1" - "$ROOT/setup.py" "$ROOT/scripts/constraints.txt" <<'PY'
import hashlib, pathlib, sys
digest = hashlib.sha256()
for name in sys.argv[1:]:
  digest.update(pathlib.Path(name).read_bytes())
print(f'{digest.hexdigest()} python{sys.version_info[0]}.{sys.version_info[1]}')
PY
}

# make_env [EXTRAS]: '', 'test' or 'test,hf'; each includes the ones before.
make_env() {
  local extra="${1:-}" stamp="$VENV/.installed" python pins have=''
  # Settings of the caller's shell must not leak in.
  unset PYTHONHOME PYTHONPATH
  export PYTHONNOUSERSITE=1 PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

  python="$(find_python)" || exit 1
  pins="$(pins_hash "$python")" || die 'cannot read setup.py'
  need_writable "$ROOT"
  lock
  if [ -f "$stamp" ] && "$VENV_PYTHON" -c '' 2>/dev/null; then
    have="$(cat "$stamp")"
  fi
  if [[ "$have" != "$pins+$extra"* ]]; then
    need_space "$ROOT" "$INSTALL_GIB"
    # An interruption after this line leaves no stamp.
    rm -f "$stamp"
    if [[ "$have" != "$pins+"* ]]; then
      make_venv "$python"
    fi
    install "$python" "$extra"
    printf '%s' "$pins+$extra" > "$stamp"
  fi
  unlock
}

# With flock, two scripts may start at the same time; without it they must not.
lock() {
  if command -v flock >/dev/null; then
    exec 9> "$ROOT/.venv.lock"
    flock -n 9 || { echo 'waiting for another installation'; flock 9; }
  fi
}

unlock() {
  exec 9>&-
}

# make_venv PYTHON: makes an empty environment, with pip if PYTHON provides it.
make_venv() {
  echo "making the environment $VENV ($("$1" --version 2>&1))"
  rm -rf "$VENV"
  if ! "$1" -m venv "$VENV" >/dev/null 2>&1; then
    # Debian has ensurepip and venv in different packages.
    rm -rf "$VENV"
    "$1" -m venv --without-pip "$VENV" >/dev/null 2>&1 \
      || die "'$1 -m venv' fails; is the package python3-venv installed?"
  fi
}

# install PYTHON EXTRA
install() {
  local log="$VENV/install.log" target="$ROOT" reason
  local pip=("$VENV_PYTHON" -m pip)
  if ! "${pip[@]}" --version >/dev/null 2>&1; then
    pip=("$1" -m pip --python "$VENV_PYTHON")
  fi
  if [ -n "$2" ]; then
    target="${target}[$2]"
  fi
  echo "installing the pinned dependencies (a minute or two; log: $log)"
  # Python compiles what is imported at its first use; pip would compile all
  # files of all packages, a third of the time.
  if ! "${pip[@]}" install --no-compile --editable "$target" \
      --constraint "$ROOT/scripts/constraints.txt" > "$log" 2>&1; then
    reason="$(grep -E '^ERROR|No module named pip' "$log" | head -n 1 || true)"
    die "the installation failed: ${reason:-unknown reason} (log: $log)"
  fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  make_env "${1:-}"
  echo "to use it: source $VENV/bin/activate"
fi
