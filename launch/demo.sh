#!/usr/bin/env bash
# Trains an encoder and both decoders on synthetic data, in .venv, which it creates if needed.
#   bash launch/demo.sh [WORKDIR] [more flags of thermo_jax.main]
# Results are written to WORKDIR, by default .work/demo in the checkout.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

workdir=$(first_path "$@")
[ -z "$workdir" ] || shift

use_venv
workdir=${workdir:-$PWD/.work/demo}
say "running configs/demo.py; results go to $workdir"
exec "$python" -m thermo_jax.main --config=configs/demo.py --workdir="$workdir" "$@"
