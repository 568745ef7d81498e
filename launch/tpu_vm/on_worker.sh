#!/usr/bin/env bash
# tpu_vm.sh runs these commands on each worker. There, ~/thermo_jax contains the checkout, .venv,
# the data, and the flags, session, log and exit code of the program that was started. The program
# keeps the file `lock` locked while it runs.
#   setup [gs://DATA]   installs the checkout, and copies the data to ~/thermo_jax/data
#   run FLAGS           starts the program, unless it already runs with the same flags
#   watch               prints the program's log, from the last 50 lines on, until it ends
#   status              prints its exit code; or running, lost (killed, machine restarted), absent
#   stop                sends SIGTERM: the program saves and exits; after two minutes, SIGKILL
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

say() { printf '%s: %s\n' "$(hostname)" "$*" >&2; }

is_running() { ! flock --nonblock 9; }

setup() {
  if is_running; then
    say "the program is running: nothing was installed"
    return
  fi
  PATH=$HOME/.local/bin:$PATH
  # uv installs its own Python, because the VM images have 3.10.
  command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  [ -x .venv/bin/python ] || uv venv --python 3.12 .venv
  uv pip install --quiet --python .venv/bin/python --reinstall-package thermo_jax './checkout[tpu]'
  if [ $# -gt 0 ]; then
    mkdir -p data
    gcloud storage rsync --recursive "$1" data
  fi
}

run() {
  local flags
  flags=$(printf '%q ' "$@")
  if is_running; then
    [ "$flags" = "$(cat flags)" ] && say "the program is already running" && return
    say "another run is in progress, with $(cat flags): stop it first"
    return 1
  fi
  printf '%s\n' "$flags" >flags
  rm -f exit_code
  # In a session of its own, the program outlives this connection. `stop` sends SIGTERM to the whole
  # session; the shell catches it, so that it can still write the program's exit code.
  # shellcheck disable=SC2016
  setsid bash -c 'trap : TERM; "$@" || code=$?; echo "${code:-0}" >exit_code' bash \
    .venv/bin/python -u -m thermo_jax.main "$@" </dev/null >log 2>&1 &
  echo $! >session
}

watch() {
  flock 9 & # ends when the program does
  tail --lines=50 --follow --sleep-interval=.1 --pid=$! log
}

status() {
  if is_running; then
    echo running
  elif [ -f flags ]; then
    cat exit_code 2>/dev/null || echo lost
  else
    echo absent
  fi
}

stop() {
  is_running || return 0
  kill -TERM -- "-$(cat session)" || return 0 # the program has just ended
  flock --timeout 120 9 || kill -KILL -- "-$(cat session)"
}

exec 9>>lock
"$@"
