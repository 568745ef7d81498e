#!/usr/bin/env bash
# Runs the whole path on a synthetic data set, in .venv, which it makes first where needed.
#   bash launch/demo.sh [WORKDIR] [more flags of thermo_jax.main]
# WORKDIR is where results go; without it, .work/demo in the checkout.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

workdir=
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
  case $1 in /*) workdir=$1 ;; *) workdir=$PWD/$1 ;; esac
  shift
fi

use_venv
workdir=${workdir:-$PWD/.work/demo}
say "running configs/demo.py; results go to $workdir"
exec "$python" -m thermo_jax.main --config=configs/demo.py --workdir="$workdir" "$@"
