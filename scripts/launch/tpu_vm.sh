#!/usr/bin/env bash
# Creates a Cloud TPU slice, runs a command on all workers, and resumes the run
# from its checkpoint on a new slice after each preemption.
#
#   bash scripts/launch/tpu_vm.sh ACTION --name=NAME --zone=ZONE [FLAGS]
#       [-- COMMAND...]
#
# Actions:
#   run     make the slice, start COMMAND on all workers, show its log, restart
#           it after each preemption. Ctrl-C leaves the run going; the same
#           command follows it again. Needs --type, --bucket and COMMAND.
#   up      only make the slice and install everything on it
#   status  show the state of the slice and of the run
#   logs    show the log of the first worker until the run ends
#   ssh     open a shell on the first worker
#   stop    let the run save its state and end; the slice stays
#   down    `stop`, then delete the slice
#
# Flags:
#   --project=P              default: gcloud's
#   --type=T                 such as v4-32, v5litepod-64, v5p-64, v6e-16
#   --spot | --reserved      default: on demand
#   --bucket=B               a bucket with a hierarchical namespace
#   --mount=DIR              mount point of the bucket on all workers; default
#                            /mnt/bucket. --workdir must be below it
#   --delete-when-done       delete the slice when the run ends, also after a
#                            failure (the logs are in BUCKET/launch/NAME)
#   --give-up-after=N        attempts without a new checkpoint; default 5
#   --runtime-version=V      default: Google's version for the type
#   --create-flag=FLAG       extra flag of `gcloud ... queued-resources create`,
#                            such as --network=N; may be repeated
#   --poll=SECONDS           time between checks of the slice; default 20
#
# Exit status: 0 the run finished; 75 `stop` or `down` stopped it and its state
# is saved; 130 Ctrl-C; 1 otherwise. The last line always names what still costs
# money.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"
# shellcheck source=scripts/launch/slice.sh
source "$(dirname "${BASH_SOURCE[0]}")/slice.sh"

# Statuses after which a restart resumes the run; see attempt.sh.
RESTART=' 74 75 76 134 137 143 '
COMMAND=()

usage() {
  sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

# parse_flags ARGUMENTS: sets the variables of slice.sh, and COMMAND.
parse_flags() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --name=*) NAME="${1#*=}" ;;
      --zone=*) ZONE="${1#*=}" ;;
      --project=*) PROJECT="${1#*=}" ;;
      --type=*) TYPE="${1#*=}" ;;
      --spot|--reserved)
        [ -z "$TIER" ] || [ "$TIER" = "$1" ] \
          || die '--spot and --reserved exclude each other'
        TIER="$1" ;;
      --bucket=*) BUCKET="${1#*=}"; BUCKET="${BUCKET#gs://}"
                  BUCKET="${BUCKET%/}" ;;
      --mount=*) MOUNT="${1#*=}"; MOUNT="${MOUNT%/}" ;;
      --delete-when-done) DELETE=yes ;;
      --give-up-after=*) GIVE_UP_AFTER="${1#*=}" ;;
      --runtime-version=*) RUNTIME="${1#*=}" ;;
      --create-flag=*) CREATE_FLAGS+=("${1#*=}") ;;
      --poll=*) POLL="${1#*=}" ;;
      -h|--help) usage; exit 0 ;;
      --) shift; COMMAND=("$@"); return ;;
      *) die "unknown flag '$1'; see:" \
           'bash scripts/launch/tpu_vm.sh --help' ;;
    esac
    shift
  done
}

# check_flags ACTION: reports the first flag that is missing or wrong.
check_flags() {
  [ -n "$NAME" ] || die '--name=NAME of the slice is missing'
  [ -n "$ZONE" ] || die '--zone=ZONE is missing, such as us-east5-b'
  [[ "$GIVE_UP_AFTER" =~ ^[1-9][0-9]*$ ]] \
    || die "--give-up-after=$GIVE_UP_AFTER must be a number of 1 or more"
  command -v gcloud >/dev/null \
    || die 'gcloud is not installed: cloud.google.com/sdk/docs/install'
  case "$1" in
    up|run) ;;
    *) return ;;
  esac
  [ -n "$BUCKET" ] || die '--bucket=BUCKET is missing'
  choose_runtime
  if [ "$1" = run ]; then
    check_command
  fi
  check_bucket
}

check_command() {
  local argument workdir=''
  [ "${#COMMAND[@]}" -gt 0 ] || die 'the command is missing: -- python -m' \
    "instructrl.main --config=... --workdir=$MOUNT/..."
  for argument in "${COMMAND[@]}"; do
    case "$argument" in
      --workdir=*) workdir="${argument#*=}" ;;
    esac
  done
  [ -n "$workdir" ] || die "the command has no --workdir=$MOUNT/... (with =)"
  case "$workdir" in
    "$MOUNT"/?*) ;;
    *) die "--workdir=$workdir must be below $MOUNT, the mount point of the" \
         'bucket; elsewhere it would be lost with the slice' ;;
  esac
}

# The ID of an attempt starts with this checksum of the command.
command_key() {
  printf '%q ' "${COMMAND[@]}" | cksum | cut -d' ' -f1
}

# Someone deleted the slice by hand, so it is not made again.
was_deleted() {
  EXISTS=no
  die "$NAME was deleted; the same command makes it again and resumes"
}

# Copies the checkout to all workers, and installs everything there.
set_up() {
  say 'setting up all workers (takes minutes, longest the first time)'
  copy_to_workers "$TEMPORARY/checkout.tar.gz" \
    && on_workers all "$(unpack) && bash $WORKER environment \
      && $(quoted bash "$WORKER" mount "$BUCKET" "$MOUNT")"
}

# After `set_up` or `start_attempt` failed: ends the script, or returns to try
# again, on a new slice if this one is gone.
consider_trouble() {
  cp "$TEMPORARY/output" "$TEMPORARY/trouble"
  look_at_slice
  [ "$SLICE" != DELETED ] || was_deleted
  if [ "$SLICE" = READY ]; then
    TROUBLE=$((TROUBLE + 1))
    tail -n 20 "$TEMPORARY/trouble" >&2
    [ "$TROUBLE" -lt 3 ] \
      || die "cannot set up the workers of $NAME; the reason is above"
    say "setting up the workers of $NAME failed (see above); trying again"
    sleep "$POLL"
  fi
}

# Prints the command that unpacks the checkout and removes an earlier one, but
# keeps its .venv.
unpack() {
  local old="find $CHECKOUT -mindepth 1 -maxdepth 1 ! -name '.venv*'"
  echo "mkdir -p $CHECKOUT && $old -exec rm -rf {} + && tar -xzf" \
    "checkout.tar.gz -C $CHECKOUT"
}

pack() {
  local commit
  commit="$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null)" \
    || die "$ROOT is not a git checkout; the script copies a commit to workers"
  git -C "$ROOT" archive --format=tar.gz -o "$TEMPORARY/checkout.tar.gz" HEAD
  if [ -n "$(git -C "$ROOT" status --porcelain)" ]; then
    say "copying commit $commit; uncommitted changes are not copied"
  fi
}

start_attempt() {
  ATTEMPT="$(command_key)-$(date +%Y%m%dT%H%M%S)-$((++ATTEMPTS))"
  say "starting on all workers (attempt $ATTEMPTS): ${COMMAND[*]}"
  on_workers all "GIVE_UP_AFTER=$GIVE_UP_AFTER $(quoted bash "$WORKER" start \
    "$ATTEMPT" "$MOUNT/launch/$NAME" "${COMMAND[@]}")"
}

# Shows the first worker's log until the run ends. Sets RUN to its state then,
# or to `gone` if the slice is lost.
follow() {
  local failed=0
  OFFSET=0
  while :; do
    if poll_run "$OFFSET"; then
      failed=0
      if [ "$RUN_ID" != "$ATTEMPT" ] && [ "$RUN" != none ]; then
        DELETE=''
        die "another run was started on $NAME in the meantime"
      fi
      cat "$TEMPORARY/log"
      OFFSET="$RUN_SIZE"
      [ "$RUN" != none ] || RUN=lost  # the disk is new
      [ "$RUN" = running ] || return 0
    else
      look_at_slice
      case "$SLICE" in
        LOST) RUN=gone; return ;;
        DELETED) was_deleted ;;
      esac
      failed=$((failed + 1))
      if [ $((failed % 10)) -eq 1 ]; then
        say "cannot reach $NAME (its state: $DETAIL); trying again"
      fi
    fi
    sleep "$POLL"
  done
}

# Collects the result of the attempt from all workers: sets RUN to exit:STATUS,
# stopped:STATUS or lost. A failure on one worker is a failure of the run; the
# other workers then report that they lost a peer.
settle() {
  local state
  on_workers all "bash $WORKER settle 120" || true
  while read -r _ state _; do
    case "$RUN $state" in
      stopped:*) ;;
      *\ stopped:*) RUN="$state" ;;
      *\ exit:0) ;;
      *\ exit:*)
        if ! restarts "$state" || [ "$RUN" = exit:0 ]; then
          RUN="$state"
        fi ;;
      exit:0\ *) RUN=lost ;;  # this worker did not finish
    esac
  done < <(grep "^@@instructrl " "$TEMPORARY/output")
}

# restarts exit:STATUS: succeeds if a restart resumes the run.
restarts() {
  case "$RESTART" in
    *" ${1#*:} "*) return 0 ;;
    *) return 1 ;;
  esac
}

# Starts the command until it has finished or failed.
run() {
  pack
  first_look
  if [ "$SLICE" = READY ]; then
    EXISTS=yes
    check_type
    if attach; then
      follow
      conclude
    fi
  fi
  while :; do
    [ "$SLICE" = READY ] || make_slice
    if set_up && start_attempt; then
      TROUBLE=0
      follow
      conclude
    else
      consider_trouble
    fi
    if [ "$SLICE" = LOST ]; then
      say "$NAME was preempted or lost ($DETAIL); making it again"
    fi
  done
}

# Succeeds if COMMAND is already running; fails if another command is.
attach() {
  poll_run 0 || return 1
  [ "$RUN" = running ] || return 1
  if [ "${RUN_ID%%-*}" != "$(command_key)" ]; then
    DELETE=''
    die "another command is running on $NAME; end it first:" \
      "$(this_script stop)"
  fi
  ATTEMPT="$RUN_ID"
  say "the command is already running on $NAME; following it"
}

# After `follow`: ends the script, or returns to restart the run.
conclude() {
  if [ "$RUN" != gone ]; then
    settle
    look_at_slice
  fi
  case "$RUN" in
    exit:0) say 'finished'; exit 0 ;;
    stopped:*) DELETE=''; say "stopped on request (status ${RUN#*:});" \
      'the same command resumes'; exit 75 ;;
  esac
  [ "$SLICE" != DELETED ] || was_deleted  # which can end a run in any way
  case "$RUN" in
    exit:*)
      if ! restarts "$RUN"; then
        say "failed with status ${RUN#*:}; it is not started again"
        on_workers all "bash $WORKER stop" || true
        exit 1
      fi
      say "ended with status ${RUN#*:}: state saved or a process lost" ;;
    lost) say 'the run ended without a status, as after a reboot' ;;
    gone) ;;
  esac
}

up() {
  pack
  first_look
  if [ "$SLICE" = READY ]; then
    EXISTS=yes
    check_type
  fi
  while :; do
    [ "$SLICE" = READY ] || make_slice
    ! set_up || break
    consider_trouble
  done
  say "$NAME is ready: $(this_script ssh)"
}

status() {
  first_look
  echo "$NAME: $DETAIL"
  [ "$SLICE" != DELETED ] || return 0
  EXISTS=yes
  if [ "$SLICE" = READY ]; then
    poll_run 0 || die "cannot reach $NAME: $(last_error)"
    echo "the run: $RUN"
  fi
}

logs() {
  first_look
  [ "$SLICE" = READY ] || die "cannot read $NAME ($DETAIL); earlier logs" \
    "are in the bucket, in launch/$NAME"
  EXISTS=yes
  poll_run 0 || die "cannot reach $NAME: $(last_error)"
  ATTEMPT="$RUN_ID"
  [ "$ATTEMPT" != - ] || die "nothing was started on $NAME"
  follow
  say "the run: $RUN"
}

ssh() {
  first_look
  [ "$SLICE" != DELETED ] || die "there is no $NAME in $ZONE"
  EXISTS=yes
  gcloud compute tpus tpu-vm ssh "$NAME" "${PLACE[@]}"
}

stop() {
  first_look
  [ "$SLICE" = READY ] || die "$NAME has no run to stop ($DETAIL)"
  EXISTS=yes
  on_workers all "bash $WORKER stop" || die "cannot stop: $(last_error)"
  grep '^@@instructrl ' "$TEMPORARY/output" | cut -d' ' -f2- | sort -u
}

down() {
  first_look
  if [ "$SLICE" = DELETED ]; then
    say "there is no $NAME in $ZONE"
    return
  fi
  EXISTS=yes
  if [ "$SLICE" = READY ]; then
    say 'asking the run, if any, to save its state and end'
    on_workers all "[ ! -e $WORKER ] || bash $WORKER stop" \
      || say 'the run did not answer; it will resume from its last checkpoint'
  fi
  delete_slice
  say "deleted $NAME"
}

main() {
  local action="${1:-}"
  case "$action" in
    run|up|status|logs|ssh|stop|down) shift ;;
    -h|--help) usage; exit 0 ;;
    *) die "unknown action '$action'; see:" \
         'bash scripts/launch/tpu_vm.sh --help' ;;
  esac
  parse_flags "$@"
  check_flags "$action"
  set_place
  TEMPORARY="$(mktemp -d)"
  trap farewell EXIT
  trap interrupted INT TERM HUP
  "$action"
}

main "$@"
