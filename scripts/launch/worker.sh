#!/usr/bin/env bash
# The part of tpu_vm.sh that runs on each worker of a slice, in its checkout.
# Every action can be repeated: gcloud repeats commands after a lost connection.
#
#   worker.sh environment          install Python, if too old, and make_env tpu
#   worker.sh mount BUCKET DIR     mount the bucket as a folder
#   worker.sh start ID LOGS COMMAND...   start in the background, once per ID
#   worker.sh poll OFFSET          print the state, and the log from OFFSET on
#   worker.sh settle SECONDS       wait for the end of the run, or kill it
#   worker.sh stop                 send SIGTERM: the run saves and ends
#
# The state of a run is `none`, `running`, `exit:STATUS`, `stopped:STATUS` (by
# `stop`), or `lost`: its processes left no status, as after a reboot.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

STATE="$HOME/.instructrl"
UV_VERSION=0.13.9
MARK='@@instructrl'
MOST_BYTES=1048576  # of the log in one poll
COPY_SECONDS=60

# The images have Ubuntu 22.04 with Python 3.10. uv installs a newer one.
get_python() {
  if (find_python) >/dev/null 2>&1; then
    return
  fi
  python3 -m pip install --quiet --user "uv==$UV_VERSION" \
    || die "cannot install uv $UV_VERSION, which installs Python 3.11"
  local uv
  uv="$(python3 -m site --user-base)/bin/uv"
  "$uv" python install --quiet 3.11 || die 'uv cannot install Python 3.11'
  PYTHON="$("$uv" python find 3.11)"
  export PYTHON
}

# cloud.google.com/storage/docs/cloud-storage-fuse/install
get_gcsfuse() {
  if command -v gcsfuse >/dev/null; then
    return
  fi
  local key=/usr/share/keyrings/cloud.google.asc
  local source=https://packages.cloud.google.com/apt
  curl -fsS "$source/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $source gcsfuse-$(lsb_release -c -s) main" \
    | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  # A machine that has just started may still install its own updates.
  sudo apt-get -o DPkg::Lock::Timeout=300 -qq update
  sudo apt-get -o DPkg::Lock::Timeout=300 -qq install -y gcsfuse
}

# mount_bucket BUCKET DIR. The metadata cache is off, because another host may
# change a folder, and streaming writes (the default since version 3) are off,
# because fsync must make a file durable; see
# github.com/GoogleCloudPlatform/gcsfuse/blob/master/docs/semantics.md
mount_bucket() {
  local probe
  if ! mountpoint -q "$2" 2>/dev/null; then
    get_gcsfuse
    sudo mkdir -p "$2"
    sudo chown "$(id -u)" "$2"
    mkdir -p "$STATE"
    gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 \
      --metadata-cache-negative-ttl-secs=0 --enable-streaming-writes=false \
      --log-file="$STATE/gcsfuse.log" "$1" "$2" >/dev/null 2>&1 \
      || die "cannot mount the bucket $1 ($STATE/gcsfuse.log)"
  fi
  probe="$2/.write_probe.$(worker_number).$$"
  (: > "$probe") 2>/dev/null || die "cannot write in the bucket $1: give the" \
    'service account of the slice roles/storage.objectUser on it'
  rm -f "$probe"
}

# Prints the worker's number, like jax/_src/clusters/cloud_tpu_cluster.py.
worker_number() {
  local url=http://metadata.google.internal/computeMetadata/v1/instance
  if [ -n "${INSTRUCTRL_HOST:-}" ]; then
    echo "$INSTRUCTRL_HOST"
  else
    curl -fsS -H 'Metadata-Flavor: Google' \
      "$url/attributes/agent-worker-number" \
      || die 'the metadata server does not say which worker this is'
  fi
}

is_running() {
  local pid
  pid="$(cat "$STATE/pid" 2>/dev/null)" || return 1
  # After a reboot the process id may belong to another program.
  tr '\0' ' ' 2>/dev/null < "/proc/$pid/cmdline" | grep -q ' supervise '
}

run_state() {
  local status
  if status="$(cat "$STATE/status" 2>/dev/null)"; then
    if [ -e "$STATE/stopped" ]; then
      echo "stopped:$status"
    else
      echo "exit:$status"
    fi
  elif is_running; then
    echo running
  elif [ ! -e "$STATE/id" ]; then
    echo none
  elif [ -e "$STATE/status" ]; then  # the run ended in the meantime
    run_state
  else
    echo lost
  fi
}

# start ID LOGS COMMAND...
start() {
  mkdir -p "$STATE"
  exec 8> "$STATE/start.lock"
  flock 8
  if [ "$(cat "$STATE/id" 2>/dev/null)" = "$1" ]; then
    return
  fi
  if is_running; then
    die 'another run is running here'
  fi
  trap '' HUP PIPE  # a broken connection must not interrupt the next lines
  rm -f "$STATE/status" "$STATE/stopped" "$STATE/log"
  setsid nohup bash "${BASH_SOURCE[0]}" supervise "$@" \
    < /dev/null > "$STATE/log" 2>&1 8>&- &
  echo $! > "$STATE/pid"
  echo "$1" > "$STATE/id"
}

# supervise ID LOGS COMMAND...: runs the command and keeps its status. Copies
# the log to LOGS, in the bucket, every minute, because this disk may be lost.
supervise() {
  local logs="$2/$1" child copier status=0
  shift 2
  INSTRUCTRL_HOST="$(worker_number)"
  export INSTRUCTRL_HOST PYTHONUNBUFFERED=1 PATH="$VENV/bin:$PATH"
  cd "$ROOT"
  bash scripts/launch/attempt.sh "$@" &
  child=$!
  # When the machine shuts down, each process gets SIGTERM; this process must
  # live longer than the run.
  trap 'kill -TERM "$child" 2>/dev/null || true' TERM INT
  (
    trap - TERM INT
    while sleep "$COPY_SECONDS"; do
      copy_log "$logs"
    done
  ) &
  copier=$!
  while kill -0 "$child" 2>/dev/null; do  # as in attempt.sh
    wait "$child" || true
  done
  wait "$child" || status=$?
  echo "$status" > "$STATE/status.tmp"
  mv "$STATE/status.tmp" "$STATE/status"
  kill "$copier" 2>/dev/null || true
  copy_log "$logs"
}

copy_log() {
  mkdir -p "$1" 2>/dev/null || return 0
  cp "$STATE/log" "$1/worker-$INSTRUCTRL_HOST.log" 2>/dev/null || return 0
}

# poll OFFSET: prints a line with the state, the run's ID and the next OFFSET,
# then the log between the two offsets.
poll() {
  local state size=0 from="$1"
  state="$(run_state)"  # before the log, so that the log of an end is complete
  if [ -f "$STATE/log" ]; then
    size="$(($(wc -c < "$STATE/log")))"
  fi
  if [ "$size" -gt $((from + MOST_BYTES)) ]; then
    size=$((from + MOST_BYTES))
    state=running  # until all of it is read
  fi
  printf '\n%s %s %s %s\n' "$MARK" "$state" \
    "$(cat "$STATE/id" 2>/dev/null || echo -)" "$size"
  if [ "$size" -gt "$from" ]; then
    head -c "$size" "$STATE/log" | tail -c "+$((from + 1))"
  fi
}

# wait_for_end SECONDS: waits until the run has ended and its log is copied.
wait_for_end() {
  local deadline=$((SECONDS + $1))
  while is_running && [ "$SECONDS" -lt "$deadline" ]; do
    sleep 0.2
  done
}

print_state() {
  printf '\n%s %s worker %s\n' "$MARK" "$(run_state)" "$(worker_number)"
}

# settle SECONDS: ends a run that has ended on another worker, so that it can be
# restarted.
settle() {
  wait_for_end "$1"
  if is_running; then
    kill -KILL -- "-$(cat "$STATE/pid")" 2>/dev/null || true
    wait_for_end 10
  fi
  print_state
}

stop() {
  if is_running && [ ! -e "$STATE/status" ]; then
    touch "$STATE/stopped"
    kill -TERM "$(cat "$STATE/pid")" 2>/dev/null || true
  fi
  wait_for_end 120
  print_state
}

action="${1:-}"
shift || true
case "$action" in
  environment) get_python && make_env tpu ;;
  mount) mount_bucket "$@" ;;
  start|supervise|poll|settle|stop) "$action" "$@" ;;
  *) die "unknown action '$action'" ;;
esac
