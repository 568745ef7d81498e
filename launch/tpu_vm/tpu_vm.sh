#!/usr/bin/env bash
# Runs the program on a Cloud TPU VM with one or more workers, through gcloud.
#   export ZONE=us-west4-a
#   bash launch/tpu_vm/tpu_vm.sh train --config=configs/encoder.py:heat --workdir=gs://BUCKET/run
# With --dry-run before a command, its gcloud commands are printed and none is run.
#
#   create                  creates the VM
#   setup                   installs the current commit and copies the data, on all workers
#   run FLAGS               starts `python -m thermo_jax.main FLAGS` on all workers, and returns
#   watch                   prints worker 0's log until the program ends; exits with its exit code
#   stop                    makes the program save and exit; the same `run` continues it
#   fetch WORKDIR [FOLDER]  copies a workdir (gs://..., or worker 0's) into FOLDER, by default runs
#   delete                  deletes the VM and its disk
#   train FLAGS             does create, setup, run and watch, again after a preemption or a crash,
#                           and delete when the program has finished. The same command continues it
#
# Settings, from the environment:
ZONE=${ZONE:-}                                    # where the VM is; required
PROJECT_ID=${PROJECT_ID:-}                        # by default, gcloud's project
TPU_NAME=${TPU_NAME:-thermo-jax}                  # the name of the VM
ACCELERATOR_TYPE=${ACCELERATOR_TYPE:-v5litepod-8} # or v6e-8, v5p-8, v4-8, and larger ones
RUNTIME_VERSION=${RUNTIME_VERSION:-}              # by default, the one for this type
SPOT=${SPOT:-}                                    # 1: a cheaper VM that may be preempted
DATA=${DATA:-}                                    # gs:// folder, copied for --config.data.root=data
ATTEMPTS=${ATTEMPTS:-5} # train gives up after this many in a row without a new checkpoint
PAUSE=${PAUSE:-60}      # seconds before the second attempt; doubled before each further one
LIMIT=${LIMIT:-1800}    # seconds that a gcloud command may take; a longer `watch` uses several
#
# Several workers need your key in the ssh agent (ssh-add ~/.ssh/google_compute_engine), and a
# workdir that all of them can access: gs://BUCKET/FOLDER, which the VM's service account may write.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tarball=$checkout/.work/thermo_jax.tgz
on_worker="bash thermo_jax/checkout/launch/tpu_vm/on_worker.sh"
dry_run=false
may_exist=true # whether there may be a VM, which costs money
child=

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

mistake() { # reports a mistake of the user in one line, and exits with code 2
  say "$*"
  exit 2
}

quoted() { # prints its arguments, quoted for a shell, with a space before each
  local word quote="'\\''"
  for word; do
    case $word in
      '' | *[!A-Za-z0-9_./:=@,+-]*) printf " '%s'" "${word//"'"/$quote}" ;;
      *) printf ' %s' "$word" ;;
    esac
  done
}

# Runs a command for at most $LIMIT seconds, in the background, so that Ctrl-C need not wait for it.
# With --dry-run, prints the command instead, and uses $assumed as its output.
step() {
  local code=0 line
  line=$(quoted "$@")
  if $dry_run; then
    printf '%s\n' "${line# }" >&3
    [ -z "${assumed:-}" ] || printf '%s\n' "$assumed"
    return
  fi
  timeout --kill-after=10 "$LIMIT" "$@" </dev/null &
  child=$!
  wait "$child" || code=$?
  child=
  [ "$code" != 124 ] || say "gave up after $LIMIT s (LIMIT):$line"
  return "$code"
}

tpu_vm() { # arguments: a command of `gcloud compute tpus tpu-vm`, and its arguments
  step gcloud compute tpus tpu-vm "$@" --zone="$ZONE" ${PROJECT_ID:+--project="$PROJECT_ID"} --quiet
}

ssh_to() { # arguments: a worker's number or `all`, a command line
  tpu_vm ssh "$TPU_NAME" --worker="$1" --ssh-flag=-oServerAliveInterval=30 --command="$2"
}

vm_state() { # prints READY, PREEMPTED, ...; ABSENT; or UNKNOWN, after gcloud's error
  local answer
  if answer=$(assumed=ABSENT tpu_vm describe "$TPU_NAME" --format='value(state)' 2>&1); then
    grep -xE '[A-Z_]+' <<<"$answer" || echo UNKNOWN # drops gcloud's warnings
  elif [[ $answer = *NOT_FOUND* ]]; then
    echo ABSENT
  else
    printf '%s\n' "$answer" >&2
    echo UNKNOWN
  fi
}

create() {
  may_exist=true
  tpu_vm create "$TPU_NAME" --accelerator-type="$ACCELERATOR_TYPE" --version="$RUNTIME_VERSION" \
    ${SPOT:+--spot} && return
  say "no $ACCELERATOR_TYPE was created in $ZONE; gcloud's error is above. Without capacity, try"
  say "later, in another ZONE, or with SPOT=1. To list the types that the zone offers, run"
  say "gcloud compute tpus accelerator-types list --zone=$ZONE"
  return 1
}

setup() {
  local unpack="rm -rf thermo_jax/checkout && mkdir -p thermo_jax/checkout"
  unpack+=" && tar -xzf thermo_jax.tgz -C thermo_jax/checkout"
  [ -z "$(git -C "$checkout" status --porcelain)" ] ||
    say "uncommitted changes are not sent: the workers get $(git -C "$checkout" log -1 --format=%h)"
  step mkdir -p "${tarball%/*}" &&
    step git -C "$checkout" archive --format=tar.gz --output="$tarball" HEAD &&
    tpu_vm scp "$tarball" "$TPU_NAME:thermo_jax.tgz" --worker=all &&
    ssh_to all "$unpack && $on_worker setup$(quoted ${DATA:+"$DATA"})"
}

run() { ssh_to all "$on_worker run$(quoted "$@")"; }

stop() { ssh_to all "$on_worker stop"; }

watch() { # returns the program's exit code; 1 if the program, the VM or the connection is lost
  local answer misses
  for ((misses = 0; misses < 3; misses++)); do
    ssh_to 0 "$on_worker watch" || : # however it ended, the program's status decides
    answer=$(assumed=0 ssh_to 0 "$on_worker status") || answer=
    case $answer in
      running) misses=-1 ;; # only the connection ended
      [0-9]*)
        $dry_run || say "the program ended with exit code $answer"
        return "$answer"
        ;;
      ?*) say "the program is $answer" && return 1 ;;
      '') [ "$(vm_state)" = READY ] || break ;;
    esac
    sleep "$PAUSE"
  done
  say "worker 0 does not answer"
  return 1
}

fetch() {
  local source=${1%/} folder=${2:-runs}
  step mkdir -p "$folder"
  case $source in
    gs://*) step gcloud storage rsync --recursive "$source" "$folder/${source##*/}" ;;
    *) tpu_vm scp --recurse "$TPU_NAME:thermo_jax/$source" "$folder" --worker=0 ;;
  esac
}

delete() {
  tpu_vm delete "$TPU_NAME" || return
  may_exist=false
}

vm_is_ready() { # creates the VM if there is none
  local state
  state=$(vm_state)
  case $state in
    READY) ;;
    ABSENT) create ;;
    PREEMPTED | TERMINATED | STOPPED)
      say "the VM is $state: creating a new one"
      delete && create
      ;;
    *) say "the VM is $state" && return 1 ;;
  esac
}

checkpoints() { # prints the checkpoints in a workdir in a bucket
  step gcloud storage ls --recursive "$1" | grep -o '.*/checkpoints/[0-9]*/' | sort -u
}

train() { # arguments: workdir, flags
  local workdir=$1 ready_once=false failures=0 saved='' saved_before='' code pause=$PAUSE
  shift
  while true; do
    code=1
    if vm_is_ready; then
      ready_once=true
      if setup && { ((failures == 0)) || stop; } && run "$@"; then
        code=0
        watch || code=$?
      fi
    fi
    case $code in
      0) delete && return ;;
      2) say "the flags contain a mistake, see above: correct it and run the command again" ;;
    esac
    # If there has been no VM yet, the settings may be wrong: another attempt would fail, too.
    [ "$code" != 2 ] && $ready_once || return "$code"
    saved=$(checkpoints "$workdir") || saved=$saved_before
    [ "$saved" = "$saved_before" ] || failures=0 pause=$PAUSE saved_before=$saved
    failures=$((failures + 1))
    say "attempt ended with code $code: $failures of $ATTEMPTS without a new checkpoint in $workdir"
    ((failures < ATTEMPTS)) || return "$code"
    sleep "$pause"
    pause=$((2 * pause))
  done
}

workdir_in() { # prints the value of --workdir among flags
  local previous='' word
  for word; do
    case $previous:$word in
      --workdir:*) printf '%s' "$word" ;;
      *:--workdir=*) printf '%s' "${word#--workdir=}" ;;
    esac
    previous=$word
  done
}

runtime_version() { # argument: an accelerator type
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v4-*) echo tpu-ubuntu2204-base ;;
    *) mistake "the runtime version is not known for ACCELERATOR_TYPE=$1: set RUNTIME_VERSION" ;;
  esac
}

finish() {
  local code=$?
  [ -z "$child" ] || kill "$child" 2>/dev/null || :
  if $may_exist && ! $dry_run; then
    say "the VM costs money until it is deleted: $(dry_run=true && tpu_vm delete "$TPU_NAME" 3>&1)"
  fi
  exit "$code"
}

main() {
  local command workdir tool
  if [ "${1:-}" = --dry-run ]; then
    dry_run=true
    shift
  fi
  command=${1:-}
  shift || :
  for tool in gcloud timeout git; do
    $dry_run || command -v $tool >/dev/null || mistake "$tool was not found: install it"
  done
  [ -n "$ZONE" ] || mistake "ZONE is not set: export the zone of the VM, such as ZONE=us-west4-a"
  RUNTIME_VERSION=${RUNTIME_VERSION:-$(runtime_version "$ACCELERATOR_TYPE")}
  workdir=$(workdir_in "$@")
  case $command,$#,$workdir in
    run,*,?* | train,*,gs://?*) ;;
    run,*) mistake "--workdir is missing" ;;
    train,*) mistake "train needs --workdir=gs://BUCKET/FOLDER: a preempted VM loses its disk" ;;
    fetch,[12],* | create,0,* | setup,0,* | watch,0,* | stop,0,* | delete,0,*) ;;
    *) mistake "no such command: ${command:-(none)} $*; see the top of $0" ;;
  esac
  [ "$command" != train ] || set -- "$workdir" "$@"
  trap finish EXIT
  trap 'say "a program that was started keeps running: see watch and stop"; exit 130' INT TERM HUP
  "$command" "$@"
}

exec 3>&1
main "$@"
