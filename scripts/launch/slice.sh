# Functions of tpu_vm.sh that create, watch and delete a slice with gcloud. The
# file is sourced; it defines functions and variables, and runs nothing.
#
# The Cloud TPU API with its queued resources has chips up to v6e. Newer chips
# are available through GKE only (gke_jobset.yaml).
# shellcheck shell=bash disable=SC2034  # tpu_vm.sh uses the variables

NAME='' ZONE='' PROJECT='' TYPE='' TIER='' BUCKET='' RUNTIME='' DELETE=''
MOUNT=/mnt/bucket GIVE_UP_AFTER=5 POLL=20
CREATE_FLAGS=() PLACE=()
CHECKOUT=instructrl  # in the home folder of a worker
WORKER="$CHECKOUT/scripts/launch/worker.sh"
TEMPORARY=''
EXISTS=no  # no, yes or maybe: whether the slice exists and costs money
SLICE='' DETAIL=''  # set by look_at_slice
RUN='' RUN_ID='' RUN_SIZE=0  # set by poll_run
ATTEMPT='' ATTEMPTS=0 TROUBLE=0
# If ssh loses its connection, gcloud repeats the command up to ten times.
SSH_FLAGS=(--quiet --ssh-flag=-oConnectTimeout=20
  --ssh-flag=-oServerAliveInterval=15 --ssh-flag=-oServerAliveCountMax=4)

say() {
  printf '[%s] %s\n' "$(date +%H:%M:%S)" "$*" >&2
}

# Prints the arguments, quoted for a shell.
quoted() {
  printf '%q ' "$@"
}

# this_script ACTION: prints the command that the user can type.
this_script() {
  printf 'bash scripts/launch/tpu_vm.sh %s --name=%s --zone=%s%s' "$1" \
    "$NAME" "$ZONE" "${PROJECT:+ --project=$PROJECT}"
}

# Runs at every exit: reports whether the slice still costs money.
farewell() {
  local status=$?
  trap - EXIT
  trap '' INT TERM HUP
  if [ "$EXISTS" = yes ] && [ -n "$DELETE" ] && [ "$status" -ne 130 ]; then
    say "deleting $NAME (--delete-when-done)"
    if (delete_slice); then
      EXISTS=no
    fi
  fi
  rm -rf "$TEMPORARY"
  case "$EXISTS" in
    yes) say "$NAME in $ZONE still exists and costs money; delete it with:" \
           "$(this_script down)" ;;
    maybe) say "$NAME may exist in $ZONE, or be made when its turn comes, and" \
             "then costs money; check: $(this_script status); delete:" \
             "$(this_script down)" ;;
  esac
  exit "$status"
}

interrupted() {
  if [ -n "$ATTEMPT" ]; then
    say 'no longer following; the run goes on without this script, but' \
      'nothing restarts it. The same command follows it again'
  fi
  exit 130
}

# TPU type -> runtime version, from cloud.google.com/tpu/docs/runtimes.
choose_runtime() {
  local runtime
  case "$TYPE" in
    '') die '--type=TYPE is missing, such as v5litepod-16' ;;
    v4-[0-9]*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-[0-9]*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-[0-9]*) runtime=v2-alpha-tpuv5 ;;
    v6e-[0-9]*) runtime=v2-alpha-tpuv6e ;;
    *) die '--type must be one of v4-N, v5litepod-N, v5p-N, v6e-N; got' \
         "$TYPE; for newer chips use scripts/launch/gke_jobset.yaml" ;;
  esac
  RUNTIME="${RUNTIME:-$runtime}"
}

set_place() {
  PLACE=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})
}

# A checkpoint is committed by renaming its folder. In a bucket without a
# hierarchical namespace gcsfuse refuses the rename or copies each file.
check_bucket() {
  local answer
  answer="$(gcloud storage buckets describe "gs://$BUCKET" --raw \
    --format='value(hierarchicalNamespace.enabled)' \
    ${PROJECT:+--project="$PROJECT"} 2>&1)" \
    || die "cannot read the bucket $BUCKET: $(reason_in "$answer")"
  [ "$(tail -n 1 <<< "$answer")" = True ] || die "the bucket $BUCKET has no" \
    'hierarchical namespace, which renaming folders needs; make one with' \
    'gcloud storage buckets create --enable-hierarchical-namespace' \
    '--uniform-bucket-level-access'
}

# reason_in TEXT: prints the line of gcloud's output that names the error. A
# missing project and a missing login get a hint.
reason_in() {
  local line
  line="$(grep -m 1 '^ERROR' <<< "$1" || grep . <<< "$1" | tail -n 1 || true)"
  case "$1" in
    *'Failed to find attribute [project]'*)
      line='no project is set: give --project=P, or gcloud config set project P'
      ;;
    *'gcloud auth login'*) line="$line (gcloud auth login)" ;;
  esac
  printf '%s\n' "$line"
}

last_error() {
  reason_in "$(cat "$TEMPORARY/error")"
}

# Runs gcloud compute tpus ...; its output goes to $ANSWER, errors to a file.
tpus() {
  ANSWER="$(gcloud compute tpus "$@" "${PLACE[@]}" 2> "$TEMPORARY/error")"
}

not_found() {
  grep -q 'NOT_FOUND\|was not found' "$TEMPORARY/error"
}

# Sets SLICE to READY, WAIT (being made, or unreachable), LOST (must be made
# again), DELETED (by someone) or FAILED, and DETAIL to Google's message. The
# states are those of QueuedResourceState and Node in version 2 of the API.
look_at_slice() {
  if ! tpus queued-resources describe "$NAME" --format='value(state.state)'
  then
    SLICE=WAIT DETAIL="unknown: $(last_error)"
    ! not_found || SLICE=DELETED DETAIL='does not exist'
    return 0
  fi
  DETAIL="$ANSWER"
  case "$ANSWER" in
    ACTIVE) look_at_node ;;
    SUSPENDING|SUSPENDED) SLICE=LOST ;;
    FAILED) SLICE=FAILED ;;
    DELETING) SLICE=DELETED ;;
    *) SLICE=WAIT ;;
  esac
}

look_at_node() {
  if ! tpus tpu-vm describe "$NAME" --format='value(state)'; then
    SLICE=WAIT DETAIL="unknown: $(last_error)"
    ! not_found || SLICE=LOST DETAIL='its node is gone'
    return 0
  fi
  DETAIL="$ANSWER"
  case "$ANSWER" in
    READY) SLICE=READY ;;
    PREEMPTED|TERMINATED|STOPPING|STOPPED|DELETING) SLICE=LOST ;;
    *) SLICE=WAIT ;;  # CREATING, STARTING, RESTARTING, REPAIRING, ...
  esac
}

# Fails if the state cannot be read: without permission, waiting is useless.
first_look() {
  look_at_slice
  case "$DETAIL" in
    unknown:*) die "cannot read the state of $NAME: ${DETAIL#unknown: }" ;;
  esac
}

check_type() {
  tpus tpu-vm describe "$NAME" --format='value(acceleratorType)' || return 0
  if [ "${ANSWER##*/}" != "$TYPE" ]; then
    DELETE=''
    die "$NAME exists and is a ${ANSWER##*/}, not a $TYPE; delete it or use" \
      'another --name'
  fi
}

# Requests the slice, or waits for an earlier request, until it is READY.
make_slice() {
  local failed=0 refused=0 reason
  while :; do
    case "$SLICE" in
      READY) EXISTS=yes; return ;;
      LOST) EXISTS=yes; delete_slice ;;
      FAILED)
        EXISTS=yes
        tpus queued-resources describe "$NAME" \
          --format='value(state.failedData.error.message)' || true
        reason="${ANSWER:-no reason given}"
        delete_slice
        failed=$((failed + 1))
        [ "$failed" -lt 3 ] || die "$NAME could not be made: $reason"
        say "$NAME could not be made ($reason); asking again" ;;
      WAIT) EXISTS=maybe ;;
    esac
    if [ "$SLICE" != WAIT ] && ! request_slice; then
      refused=$((refused + 1))
      if [ "$ATTEMPTS" -eq 0 ] || [ "$refused" -ge 5 ]; then
        die "gcloud refused to make $NAME: $REASON"
      fi
      say "gcloud refused to make $NAME ($REASON); asking again"
      sleep "$POLL"
      continue
    fi
    wait_for_slice
  done
}

# Returns 1, with the reason in REASON, if Google refuses the request.
request_slice() {
  say "asking for $NAME: $TYPE in $ZONE${TIER:+ ($TIER)}"
  EXISTS=maybe
  tpus queued-resources create "$NAME" --node-id="$NAME" \
    --accelerator-type="$TYPE" --runtime-version="$RUNTIME" \
    ${TIER:+"$TIER"} ${CREATE_FLAGS[@]+"${CREATE_FLAGS[@]}"} && return
  REASON="$(last_error)"
  look_at_slice  # it may exist if only the connection broke
  if [ "$SLICE" = DELETED ]; then
    EXISTS=no
    return 1
  fi
}

# Waits while the slice is being made.
wait_for_slice() {
  local before=''
  while :; do
    look_at_slice
    [ "$SLICE" = WAIT ] || break
    if [ "$DETAIL" != "$before" ]; then
      say "$NAME: $DETAIL"
      before="$DETAIL"
    fi
    sleep "$POLL"
  done
  say "$NAME: $DETAIL"
  if [ "$SLICE" = DELETED ]; then
    EXISTS=no
    die "$NAME was deleted while this script waited for it"
  fi
}

delete_slice() {
  local attempt
  for attempt in 1 2 3 4 5; do
    if tpus queued-resources delete "$NAME" --force --quiet || not_found; then
      EXISTS=no SLICE=DELETED
      return
    fi
    say "$NAME is not deleted yet ($(last_error)), attempt $attempt of 5"
    sleep "$POLL"
  done
  die "cannot delete $NAME: $(last_error)"
}

# on_workers 0|all COMMAND: runs a command; its output goes to a file `output`.
on_workers() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${PLACE[@]}" "${SSH_FLAGS[@]}" \
    --worker="$1" --command="$2" > "$TEMPORARY/output" 2> "$TEMPORARY/error" \
    < /dev/null && return
  cat "$TEMPORARY/error" >> "$TEMPORARY/output"
  return 1
}

copy_to_workers() {
  gcloud compute tpus tpu-vm scp "$1" "$NAME:" "${PLACE[@]}" --quiet \
    --worker=all > "$TEMPORARY/output" 2>&1 < /dev/null
}

# poll_run OFFSET: sets RUN, RUN_ID and RUN_SIZE, and writes the log from OFFSET
# on to the file `log`. If gcloud repeated the command, the last output counts.
poll_run() {
  local line
  on_workers 0 "[ ! -e $WORKER ] || bash $WORKER poll $1" || return 1
  line="$(awk '/^@@instructrl / { n = NR } END { print n + 0 }' \
    "$TEMPORARY/output")"
  if [ "$line" -eq 0 ]; then  # the worker was never set up
    RUN=none RUN_ID=- RUN_SIZE=0
    : > "$TEMPORARY/log"
    return
  fi
  read -r _ RUN RUN_ID RUN_SIZE < <(sed -n "${line}p" "$TEMPORARY/output")
  tail -n "+$((line + 1))" "$TEMPORARY/output" > "$TEMPORARY/log"
}
