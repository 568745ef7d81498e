#!/usr/bin/env bash
# Tests the version bounds in setup.cfg, and the built package outside of this checkout.
#   bash launch/bounds.sh lowest [pytest arguments]   the lower bounds (only extra dev), Python 3.11
#   bash launch/bounds.sh newest [pytest arguments]   the newest allowed versions, Python 3.12
#   bash launch/bounds.sh wheel                       builds sdist and wheel, installs and runs each
# PYTHON=/path/to/python3.13 chooses another interpreter. Everything is created in .work/bounds/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

make_venv() { # arguments: folder, interpreter
  if ! "$2" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    say "no $2 with the venv module was found: set PYTHON=/path/to/$2"
    exit 2
  fi
  say "creating $1 with $2"
  "$2" -m venv --clear "$1"
}

lower_bounds() { # argument: virtual environment; prints setup.cfg's lower bounds as pip constraints
  "$1/bin/python" - <<'EOF'
import configparser, re

config = configparser.ConfigParser()
config.read("setup.cfg")
extras = config["options.extras_require"]
for line in (config["options"]["install_requires"] + extras["dev"]).strip().splitlines():
    name, lowest = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\w.]+),<[\w.]+", line).groups()
    print(f"{name}=={lowest}")
EOF
}

run_tests() { # arguments: virtual environment, constraints, pytest arguments
  local venv=$1 constraints=$2
  shift 2
  "$venv/bin/python" -m pip install --quiet --constraint "$constraints" --editable '.[dev]'
  "$venv/bin/python" -m pip list --format=freeze >"$venv/versions.txt"
  say "testing the versions in $venv/versions.txt"
  "$venv/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" "$@"
}

run_installed() { # argument: a wheel or an sdist
  local venv=.work/bounds/installed program
  make_venv "$venv" "${PYTHON:-python3.11}"
  say "installing $1"
  "$venv/bin/python" -m pip install --quiet "$1"
  "$venv/bin/python" -m pip check
  program=$PWD/$venv/bin/python
  (
    cd / # in the checkout, Python would import its files
    "$program" -m thermo_jax.main --config=table1:quick --config.num_folds=1 \
      --workdir="$OLDPWD/.work/bounds/run-$(basename "$1")"
  )
}

mode=${1:-}
[ $# = 0 ] || shift
mkdir -p .work/bounds
case $mode in
  lowest)
    make_venv .work/bounds/lowest "${PYTHON:-python3.11}"
    lower_bounds .work/bounds/lowest >.work/bounds/lowest.txt
    run_tests .work/bounds/lowest .work/bounds/lowest.txt "$@"
    ;;
  newest)
    make_venv .work/bounds/newest "${PYTHON:-python3.12}"
    run_tests .work/bounds/newest /dev/null "$@"
    ;;
  wheel)
    rm -rf .work/bounds/dist .work/bounds/run-*
    make_venv .work/bounds/build "${PYTHON:-python3.11}"
    .work/bounds/build/bin/python -m pip install --quiet build
    .work/bounds/build/bin/python -m build --outdir .work/bounds/dist . >.work/bounds/build.log
    for file in .work/bounds/dist/*; do
      run_installed "$file"
    done
    say "built, installed and run: $(cd .work/bounds/dist && echo ./*)"
    ;;
  *)
    say "specify what to test: lowest, newest or wheel; see the top of $0"
    exit 2
    ;;
esac
