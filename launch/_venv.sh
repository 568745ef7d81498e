# shellcheck shell=bash
# The scripts in this folder source this file. `use_venv [EXTRAS]` changes to the checkout, and sets
# `python`. If setup.cfg or pyproject.toml changed or an extra is missing, it first installs the
# package and these extras ("dev" by default) into .venv; only one script installs at a time.
# `use_venv light` is satisfied with any installation; if there is none, it installs the package
# without TensorFlow. Set PYTHON to choose the interpreter with which .venv is created (3.11 or
# newer).

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

# Prints the first argument as an absolute path, because use_venv changes the folder; prints nothing
# if there is none, or if it is a flag.
first_path() {
  [ $# -eq 0 ] || case $1 in -*) ;; /*) printf '%s' "$1" ;; *) printf '%s' "$PWD/$1" ;; esac
}

is_usable() { # is it Python 3.11+, and can it create virtual environments?
  "$1" -c 'import sys; assert sys.version_info >= (3, 11); import ensurepip, venv' >/dev/null 2>&1
}

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    is_usable "$PYTHON" && { command -v "$PYTHON"; return; }
    say "PYTHON=$PYTHON is not a Python 3.11 or newer with the venv and ensurepip modules."
    return 1
  fi
  for candidate in python3.12 python3.11 python3.13 python3 python; do # tested ones first
    is_usable "$candidate" && { command -v "$candidate"; return; }
  done
  say "no Python 3.11 or newer with the venv module was found. Install one (Debian, Ubuntu:"
  say "apt-get install python3.11 python3.11-venv), or run PYTHON=/path/to/python3.11 bash $0"
  return 1
}

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# A checksum of the requirements, and of this folder (an editable installation depends on it).
wanted_stamp() { { cat setup.cfg pyproject.toml; pwd; } | cksum; }

# Prints the extras in .venv; fails if the requirements or the folder have changed.
installed_extras() {
  [ "$(sed -n 1p .venv/installed-for 2>/dev/null)" = "$(wanted_stamp)" ] &&
    sed -n 2p .venv/installed-for
}

has_extras() { # arguments: installed extras, wanted extras
  local extra
  if [ "$2" = light ]; then return; fi
  for extra in ${2//,/ }; do
    [[ ",$1," == *",$extra,"* ]] || return 1
  done
}

is_current() {
  local installed
  installed=$(installed_extras) && has_extras "$installed" "$1" && is_usable .venv/bin/python &&
    { [ -z "${PYTHON:-}" ] || [ "$(python_version .venv/bin/python)" = "$(python_version "$PYTHON")" ]; }
}

pip() { .venv/bin/python -m pip --quiet --disable-pip-version-check "$@"; }

install_light() { # the README has this recipe, too
  # --no-compile saves 100 MB: later, Python compiles the modules that it imports.
  sed -n '/^install_requires/,/^$/s/^  *//p' setup.cfg | grep -v '^tensorflow>' |
    pip install --no-compile --requirement /dev/stdin
  pip install --no-deps --editable .
  pip uninstall --yes pyarrow # 165 MB, which TFDS uses only for Parquet files
}

install() {
  local base stamp extras=$1 installed
  stamp=$(wanted_stamp)
  # Keep the extras that are already installed; without any, the installation is light.
  installed=$(installed_extras) || installed=
  extras=$(printf '%s,%s' "$installed" "$extras" | tr , '\n' | sed '/^$/d; /^light$/d' | sort -u | paste -sd, -)
  extras=${extras:-light}
  base=$(find_python)
  rm -f .venv/installed-for
  if ! is_usable .venv/bin/python ||
    { [ -n "${PYTHON:-}" ] && [ "$(python_version .venv/bin/python)" != "$(python_version "$base")" ]; }; then
    say "creating .venv with $base ($(python_version "$base"))"
    "$base" -m venv --clear .venv
  fi
  say "installing thermo_jax with its dependencies into .venv (some minutes the first time)"
  if [ "$extras" = light ]; then install_light; else pip install --editable ".[$extras]"; fi
  printf '%s\n' "$stamp" "$extras" >.venv/installed-for
}

lock() { # does nothing on macOS, which has no flock
  command -v flock >/dev/null || return 0
  flock --nonblock "$@" 9 || { say "waiting for another script that uses .venv"; flock "$@" 9; }
}

use_venv() {
  local extras=${1:-dev}
  case ${PYTHON:-} in [!/]*/*) PYTHON=$PWD/$PYTHON ;; esac
  cd "$(dirname "${BASH_SOURCE[0]}")/.." || return
  # A script has a shared lock while it runs, and an exclusive one while it installs, so that the
  # packages of a running script never change.
  exec 9>.venv.lock
  lock --shared
  if ! is_current "$extras"; then
    lock --exclusive
    is_current "$extras" || install "$extras" # another script may have installed in the meantime
    lock --shared
  fi
  # shellcheck disable=SC2034  # used by the script that sources this file
  python=$PWD/.venv/bin/python
}
