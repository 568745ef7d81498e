#!/usr/bin/env bash
# Measures one GPU in 8 minutes: speed, precision, real runs. The package need not be installed.
#   bash launch/gpu_check.sh [options]                  runs all parts
#   bash launch/gpu_check.sh quick [options] CASE...    times cases ('pretrain H:64') in 3 minutes
#   bash launch/gpu_check.sh pack [FOLDER]              downloads packages, where there is a network
# Options:
#   --out FOLDER      for results (default: $OUT, or runs/gpu_check in the checkout)
#   --wheels FOLDER   the folder that `pack` filled (default: .wheels in the checkout, not in git)
#   --minutes N       the time limit for all parts together
#   --tiny            tries all parts on the CPU at tiny sizes
# It needs JAX with CUDA, Flax, Optax, Orbax and, for comparison, PyTorch (which installs Jinja2,
# used by the reports); it does not need TensorFlow. `pack` downloads the other packages. Results
# are written to gpu_check.jsonl, the output of the parts to log.txt; the table that is printed at
# the end is also in table.txt. Exit code 1: a part failed, but the others ran. Set PYTHON to choose
# the interpreter (default: .venv's, or python3).
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case ${PYTHON:-} in [!/]*/*) PYTHON=$PWD/$PYTHON ;; esac

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

# Packages of pure Python: MODULE=NAME_ON_PYPI.
modules=(absl=absl-py beartype=beartype etils=etils jaxtyping=jaxtyping
  ml_collections=ml-collections tensorboardX=tensorboardX tqdm=tqdm wadler_lindig=wadler-lindig)

has_module() {
  "$python" -c 'import importlib.util as util, sys; sys.exit(not util.find_spec(sys.argv[1]))' "$1"
}

pack() { # argument: folder
  local module name requirement requirements=()
  for module in "${modules[@]}"; do
    name=${module#*=}
    requirement=$(sed -nE "s/^ +($name)(\[[a-z]+\])?([<>=].*)$/\1\3/p" "$checkout/setup.cfg" | head -n 1)
    requirements+=("${requirement:-$name}")
  done
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --platform any --python-version 3.12 --dest "$1" "${requirements[@]}"
  say "$1 contains $(find "$1" -name '*.whl' | wc -l) packages, $(du -sh "$1" | cut -f 1)"
}

install_missing() { # from the folder of wheels into $work/site
  local module missing=()
  for module in "${modules[@]}"; do
    has_module "${module%%=*}" || missing+=("${module#*=}")
  done
  if [ ${#missing[@]} = 0 ]; then return; fi
  if [ ! -d "$wheels" ]; then
    say "Python lacks ${missing[*]}. Run 'bash launch/gpu_check.sh pack' where there is a network,"
    say "and copy the folder .wheels to this machine"
    exit 2
  fi
  say "installing ${missing[*]} from $wheels"
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
    --find-links "$wheels" --target "$work/site" "${missing[@]}"
}

link_package() { # makes thermo_jax importable, with configs/ as thermo_jax.configs
  local entry
  mkdir -p "$work/site/thermo_jax"
  for entry in "$checkout"/thermo_jax/* "$checkout/configs"; do
    ln -s "$entry" "$work/site/thermo_jax/"
  done
}

check() { "$python" -m thermo_jax.benchmark.check "$@"; }

part() { # arguments: name, limit in seconds, command; runs it, sets and records `took`, `outcome`
  local name=$1 limit=$2 left=$((deadline - SECONDS)) offset started=$SECONDS status=0
  shift 2
  offset=$(wc -c <"$out/log.txt")
  if [ "$left" -lt 15 ]; then
    outcome="not started, the $minutes minutes are over"
  else
    if [ "$left" -lt "$limit" ]; then limit=$left; fi
    say "$name, at most $limit s"
    timeout --kill-after=5 "$limit" "$@" >>"$out/log.txt" 2>&1 </dev/null || status=$?
    case $status in
      0) outcome="done" ;;
      124 | 137) outcome="stopped after $limit s" ;;
      *) outcome="failed with exit code $status" ;;
    esac
  fi
  took=$((SECONDS - started))
  say "$name: $outcome"
  check part "$rows" "$name" "$took" "$outcome" "$out/log.txt" "$offset"
}

leave_out() { # arguments: name of a part that cannot run, reason
  say "$1: skipped, $2"
  check part "$rows" "$1" 0 "skipped, $2" /dev/null 0
}

tuple() { # prints its arguments as a tuple of strings, for a --config flag
  local value
  printf '('
  for value in "$@"; do printf "'%s'," "$value"; done
  printf ')'
}

benchmark() { # arguments: name, limit in seconds, an XLA flag or '', flags of the program
  local flags="${XLA_FLAGS:-} $3"
  part "$1" "$2" env XLA_FLAGS="${flags# }" "$python" -m thermo_jax.main \
    "--config=benchmark:$preset" "--workdir=$work/benchmark" --config.feeding='()' \
    "--config.cases=$(tuple "${cases[@]}")" "${@:4}"
}

pytorch() { # argument: limit in seconds
  local name joined known=()
  for name in "${cases[@]}"; do
    case $name in "pretrain "[GH]:* | "segment G/G:"* | "segment H/H:"*) known+=("$name") ;; esac
  done
  if [ ${#known[@]} = 0 ]; then leave_out PyTorch "PyTorch has none of these cases"; return; fi
  if ! has_module torch; then leave_out PyTorch "torch is not installed"; return; fi
  joined=$(printf ',%s' "${known[@]}")
  part PyTorch "$1" "$python" "$checkout/launch/benchmark_torch.py" "--workdir=$work/benchmark" \
    "--cases=${joined#,}" "--budget=$(($1 * 3 / 4))" "${torch_options[@]}"
}

golden() { # argument: limit in seconds
  if ! has_module pytest; then leave_out "golden vectors" "pytest is not installed"; return; fi
  part "golden vectors" "$1" env "JAX_PLATFORMS=$test_platforms" "$python" -m pytest -q \
    -p no:cacheprovider "$checkout/tests/test_golden.py" "${golden_options[@]}"
}

real_run() { # arguments: case, limit in seconds, config, flags of the program
  local name=$1 workdir=$work/run-${1%% *}
  part "$name, a real run" "$2" "$python" -m thermo_jax.main "--config=$3" "--workdir=$workdir" \
    --config.data.loader=numpy "${run_options[@]}" "${@:4}"
  [ "$outcome" != "done" ] || check run "$rows" "$name" "$took" "$workdir"
}

everything() {
  benchmark benchmark 150 '' --config.profiled='()'
  real_run "pretrain H" 75 encoder:heat,phantom
  real_run "segment H/H" 90 segment:H/H,phantom "--config.encoder.workdir=$work/run-pretrain" \
    "${unet_options[@]}"
  pytorch 70
  # This part lists the kernels, because the profiler sees none inside one CUDA graph.
  benchmark "benchmark, XLA's own graphs" 60 "$xla_graphs" \
    "--config.profiled=$(tuple "${profiled[@]}")"
  golden 75
  part "one step against the CPU" 70 "$python" -m thermo_jax.main --config=benchmark:against_cpu \
    "--workdir=$work/benchmark" "${compare_options[@]}"
}

# Without this flag, a dispatch is one CUDA graph (thermo_jax/training/xla_flags.py).
xla_graphs=--xla_gpu_enable_command_buffer=-CONVOLUTION,-WHILE
mode=everything wheels=$checkout/.wheels out=${OUT:-$checkout/runs/gpu_check} minutes='' tiny=''
cases=()
python=${PYTHON:-$checkout/.venv/bin/python}
if [ -z "${PYTHON:-}" ] && [ ! -x "$python" ]; then python=python3; fi
while [ $# -gt 0 ]; do
  case $1 in
    pack)
      pack "${2:-$wheels}"
      exit
      ;;
    quick) mode=quick ;;
    --tiny) tiny=1 ;;
    --wheels | --out | --minutes)
      if [ $# = 1 ]; then say "$1 needs a value"; exit 2; fi
      case $1 in
        --wheels) wheels=$(realpath -m "$2") ;;
        --out) out=$(realpath -m "$2") ;;
        *) minutes=$2 ;;
      esac
      shift
      ;;
    -*)
      say "$1 is unknown; see the top of $0"
      exit 2
      ;;
    *:*) cases+=("$1") ;;
    *)
      say "'$1' must name a case and its images a step, such as 'pretrain H:64'"
      exit 2
      ;;
  esac
  shift
done
if [ "$mode" = quick ] && [ ${#cases[@]} = 0 ]; then
  say "quick: name the cases, such as 'pretrain H:64'"
  exit 2
fi
if [ -z "$minutes" ]; then
  if [ "$mode" = quick ]; then minutes=3; else minutes=8; fi
fi
deadline=$((minutes * 60))

if [ -n "$tiny" ]; then
  preset=quick
  if [ "$mode" = everything ]; then cases=("pretrain H:2" "segment H/H:2"); fi
  torch_options=(--quick --device=cpu)
  golden_options=(-k "ssim or contrastive")
  compare_options=("--config.cases=('pretrain H:2',)" --config.num_kernels=2)
  run_options=(--config.data.phantom_patients=10 --config.data.downscale=4 --config.train.epochs=2
    --config.train.batch_size=2)
  unet_options=(--config.model.unet_width=2 --config.report.bootstrap=10)
  profiled=("pretrain H:2")
  export JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=1
  test_platforms=cpu
else
  preset=gpu
  if [ "$mode" = everything ]; then
    # Only a few cases, because XLA tries 70 algorithms of cuDNN for each convolution, on the GPU,
    # one program after another: five cases were not compiled after 170 s. `quick` can time others.
    cases=("pretrain H:64" "segment H/H:64" "pretrain H:16")
  fi
  torch_options=()
  golden_options=()
  compare_options=()
  run_options=(--config.data.phantom_patients=80 --config.train.epochs=6)
  unet_options=()
  profiled=("pretrain H:64" "segment H/H:64")
  test_platforms=cuda,cpu # by default the tests use the CPU
  if ! command -v nvidia-smi >/dev/null; then
    say "nvidia-smi is missing, so there is no GPU here; --tiny tries all parts on the CPU"
    exit 2
  fi
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rows=$out/gpu_check.jsonl
mkdir -p "$out" "$work/site" "$work/benchmark"
touch "$rows" "$out/log.txt"
ln -s "$rows" "$work/benchmark/benchmark.jsonl"
export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLBACKEND=agg
# The parts share compiled programs and XLA's choices of algorithms.
export JAX_COMPILATION_CACHE_DIR=$work/compiled JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
export THERMO_JAX_CACHE_DIR=$work/cache
install_missing
link_package
cd "$work" # in the checkout, Python would import its thermo_jax, which lacks configs
check machine "$rows"
if [ "$mode" = quick ]; then
  # On a GPU, this lists kernels only if the user has set XLA_FLAGS to $xla_graphs.
  benchmark benchmark 110 '' "--config.profiled=$(tuple "${cases[@]}")"
  pytorch 90
else
  everything
fi
status=0
check table "$rows" >"$out/table.txt" || status=1
cat "$out/table.txt"
say "written to $rows, and to log.txt and table.txt in the same folder"
exit $status
