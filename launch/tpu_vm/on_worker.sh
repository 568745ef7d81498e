#!/usr/bin/env bash
# What tpu_vm.sh has each worker do. There, ~/thermo_jax holds the checkout, .venv and the data, and
# of the program that was started its flags, session, log and exit code. It holds `lock` locked
# while it runs.
#   setup [gs://DATA]   installs the checkout, and copies the data to ~/thermo_jax/data
#   run FLAGS           starts the program, unless it runs already with the same flags
#   watch               prints its log, from the last 50 lines on, until it ends
#   status              prints its exit code; or running, lost (killed, machine restarted), absent
#   stop                SIGTERM, with which it saves and exits; two minutes later SIGKILL
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

say() { printf '%s: %s\n' "$(hostname)" "$*" >&2; }

is_running() { ! flock --nonblock 9; }

setup() {
  if is_running; then
    say "the program runs: left as it is"
    return
  fi
  PATH=$HOME/.local/bin:$PATH
  # uv brings a Python of its own: the images have 3.10.
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
    [ "$flags" = "$(cat flags)" ] && say "it runs already" && return
    say "another run goes on here, with $(cat flags): stop it first"
    return 1
  fi
  printf '%s\n' "$flags" >flags
  rm -f exit_code
  # In a session of its own, so that it outlives this connection. SIGTERM goes to the whole session:
  # the shell must live to write down what the program made of it.
  # shellcheck disable=SC2016
  setsid bash -c 'trap : TERM; "$@" || code=$?; echo "${code:-0}" >exit_code' bash \
    .venv/bin/python -u -m thermo_jax.main "$@" </dev/null >log 2>&1 &
  echo $! >session
}

watch() {
  flock 9 & # until the program's end
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
  kill -TERM -- "-$(cat session)" || return 0 # it has just ended
  flock --timeout 120 9 || kill -KILL -- "-$(cat session)"
}

exec 9>>lock
"$@"
