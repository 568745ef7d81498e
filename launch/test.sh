#!/usr/bin/env bash
# Runs the tests in .venv, which it makes first where needed.
#   bash launch/test.sh [--all] [pytest arguments]
# Without --all: the quick suite, that is everything not marked slow.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

if [ "${1:-}" = --all ]; then
  shift
else
  set -- -m "not slow" "$@"
fi

use_venv
# Two processes, each with whole files of tests: they wait for the compiler, which has little use for
# a second core. tests/conftest.py puts the longest files first.
set -- -n 2 --dist loadfile --no-loadscope-reorder "$@"
say "running python -m pytest $*"
exec "$python" -m pytest "$@"
