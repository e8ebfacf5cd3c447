#!/usr/bin/env bash
# Runs a command that trains in a --workdir, unless starting it has stopped
# helping. What restarts a run after each loss of its machines starts this:
#
#   bash scripts/launch/attempt.sh COMMAND [ARGUMENTS...]
#
# The exit status is the command's: 0 finished; 75 SIGTERM came and the state is
# saved; 76 another process of the run was lost; 134 (JAX's own abort when a
# peer is lost), 137 and 143 (killed) as 76. After all but 0 of these the same
# command goes on. Any other status is a failure that starting again does not
# mend, and 1 is also what comes, before the command is started, when the last
# $GIVE_UP_AFTER (5) attempts left neither a new checkpoint nor a new DONE. That
# is counted in WORKDIR.attempts, by the first of the hosts.
set -euo pipefail

# Of the launcher, of GKE, or of SkyPilot. Others find their peers missing.
host="${INSTRUCTRL_HOST:-${TPU_WORKER_ID:-${SKYPILOT_NODE_RANK:-0}}}"
limit="${GIVE_UP_AFTER:-5}"

# Prints the value of --workdir, however it is written.
workdir_of() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --workdir=*|-workdir=*) printf '%s\n' "${1#*=}"; return ;;
      --workdir|-workdir) printf '%s\n' "${2:-}"; return ;;
    esac
    shift
  done
}

# One word for what a run, or a study with its stages, has reached.
progress_of() {
  find "$1" -maxdepth 3 \( -path '*/checkpoints/[0-9]*' -o -name DONE \) \
    -print 2>/dev/null | sort | cksum | tr ' ' '-'
}

# Notes one more attempt from where the run stands, or gives up.
count_attempt() {
  local reached count=0 before=''
  reached="$(progress_of "$1")" || true  # a new run has no folder
  if [ -f "$2" ]; then
    read -r count before < "$2" || true
  fi
  if [ "$reached" != "$before" ]; then
    count=0
  fi
  if [ "$count" -ge "$limit" ]; then
    rm -f "$2"  # so that who starts it by hand next gets all attempts
    printf 'attempt.sh: gave up: %s attempts from where %s stands %s\n' \
      "$count" "$1" 'left no new checkpoint; their logs say why' >&2
    exit 1
  fi
  mkdir -p "$(dirname "$2")"
  printf '%s %s\n' "$((count + 1))" "$reached" > "$2"
}

if [ $# -eq 0 ]; then
  echo 'attempt.sh: usage: bash scripts/launch/attempt.sh COMMAND...' >&2
  exit 1
fi
workdir="$(workdir_of "$@")"
workdir="${workdir%/}"
if [ -z "$workdir" ]; then
  echo 'attempt.sh: the command has no --workdir=DIR' >&2
  exit 1
fi
if [ "$host" != 0 ]; then
  exec "$@"
fi
count_attempt "$workdir" "$workdir.attempts"
# Before the command starts: a signal that comes meanwhile is passed on late, and
# does not end this script with the command left running.
child='' signalled=''
pass_on() {
  signalled=1
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null || true
  fi
}
trap pass_on TERM INT HUP
"$@" &
child=$!
if [ -n "$signalled" ]; then
  pass_on
fi
while kill -0 "$child" 2>/dev/null; do  # a signal ends `wait`, not the command
  wait "$child" || true
done
status=0
wait "$child" || status=$?  # bash keeps it
if [ "$status" -eq 0 ]; then
  rm -f "$workdir.attempts"
fi
exit "$status"
