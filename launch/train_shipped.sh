#!/usr/bin/env bash
# Makes the weights that come with the package from nothing but synthetic data, on the CPU, and
# compares them with the file in the package.
#   bash launch/train_shipped.sh [WORKDIR] [more flags of the training, such as --config.seed=1]
# It takes 4 to 5 minutes on two CPU cores, after the installation. Everything is written to WORKDIR,
# by default .work/shipped in the checkout; nothing in the package is changed. To ship new weights,
# copy WORKDIR/weights/segmenter.safetensors to thermo_jax/shipped/ and update the MODEL_CARD.md there.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

workdir=$(first_path "$@")
[ -z "$workdir" ] || shift

use_venv
workdir=${workdir:-$PWD/.work/shipped}
# Another kind of device, or another number of them, would round differently.
export JAX_PLATFORMS=cpu

say "training; results go to $workdir"
"$python" -m thermo_jax.main --config=configs/segment.py:shipped --config.parallel.devices=1 --workdir="$workdir/segmenter" "$@"
say "exporting"
"$python" -m thermo_jax.main --config=configs/export.py:safetensors --config.models="$workdir/segmenter" --workdir="$workdir/weights"
say "comparing with the weights in the package"
"$python" launch/compare_weights.py "$workdir/weights/segmenter.safetensors"
