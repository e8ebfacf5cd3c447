#!/usr/bin/env bash
# Runs a command that trains in a --workdir, and gives up if restarts stop
# helping. A launcher that restarts a run after it lost its machines calls:
#
#   bash scripts/launch/attempt.sh COMMAND [ARGUMENTS...]
#
# The exit status is that of the command:
#   0              finished
#   74             the storage failed or is full; it may recover
#   75             SIGTERM arrived; the state is saved
#   76             another process of the run was lost
#   134, 137, 143  like 76 (JAX's abort when a peer is lost; killed)
#   other          a failure that a restart does not repair
# After 74, 75, 76, 134, 137 and 143 the same command resumes. The script itself
# exits with 1, without starting the command, if the last $GIVE_UP_AFTER (5)
# attempts left no new checkpoint and no new DONE. The first host counts the
# attempts in WORKDIR.attempts.
set -euo pipefail

# The number of this host, from the launcher, GKE or SkyPilot.
host="${INSTRUCTRL_HOST:-${TPU_WORKER_ID:-${SKYPILOT_NODE_RANK:-0}}}"
limit="${GIVE_UP_AFTER:-5}"

# Prints the value of --workdir, in any of its spellings.
workdir_of() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --workdir=*|-workdir=*) printf '%s\n' "${1#*=}"; return ;;
      --workdir|-workdir) printf '%s\n' "${2:-}"; return ;;
    esac
    shift
  done
}

# Prints one word that changes with each new checkpoint or finished stage.
progress_of() {
  find "$1" -maxdepth 3 \( -path '*/checkpoints/[0-9]*' -o -name DONE \) \
    -print 2>/dev/null | sort | cksum | tr ' ' '-'
}

# count_attempt WORKDIR FILE: counts attempts without progress, or gives up.
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
    rm -f "$2"  # a later start by hand gets all attempts again
    printf 'attempt.sh: gave up: %s attempts in %s %s\n' "$count" "$1" \
      'made no new checkpoint; see their logs' >&2
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
# Set the trap before the command starts: a signal in between is passed on later
# and does not end this script while the command keeps running.
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
wait "$child" || status=$?  # bash keeps the status
if [ "$status" -eq 0 ]; then
  rm -f "$workdir.attempts"
fi
exit "$status"
