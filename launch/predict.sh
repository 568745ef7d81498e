#!/usr/bin/env bash
# Draws regions on your thermograms, in .venv, which it creates if needed (without TensorFlow).
#   bash launch/predict.sh INPUT... [flags of thermo_jax.main]
# INPUT is a thermogram, or a folder or zip of thermograms. Results are written to .work/predictions
# in the checkout (.work/predictions_2 and so on, if earlier results are there), or to the folder
# that --workdir=FOLDER names. configs/predict.py explains the flags, such as --config.labelme=True.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

folder=$PWD
inputs=()
while [[ $# -gt 0 && $1 != -* ]]; do
  if [[ $1 != *[*,]* && ! -e $1 ]]; then # a comma separates inputs; the program expands a star
    say "$1 does not exist"
    exit 2
  fi
  inputs+=("$1")
  shift
done
if [ ${#inputs[@]} = 0 ]; then
  say "specify your thermograms: bash launch/predict.sh INPUT... [flags]; see the top of $0"
  exit 2
fi

use_venv light
config=$PWD/configs/predict.py
workdir=$PWD/.work/predictions
for ((number = 2; ; number++)); do
  [ -e "$workdir" ] || break
  workdir=$PWD/.work/predictions_$number
done
for flag in "$@"; do
  case $flag in --workdir=*) workdir=${flag#*=} ;; esac
done

cd "$folder" # the paths may be relative
# -P: Python must not import what happens to be in this folder.
"$python" -P -m thermo_jax.main --config="$config" --workdir="$workdir" \
  --config.input="$(IFS=, && printf '%s' "${inputs[*]}")" "$@"
if [ -e "$workdir/index.html" ]; then say "open $workdir/index.html in a browser"; fi
