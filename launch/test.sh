#!/usr/bin/env bash
# Runs the tests in .venv, which it creates if needed.
#   bash launch/test.sh [--all] [pytest arguments]
# Without --all it runs the quick suite: all tests that are not marked slow. --all also installs
# PyTorch, ONNX and flyr (some GB, once) and needs Chromium, because some tests use them.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

need_browser() {
  local name
  for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then return; fi
  done
  say "the report's tests need Chromium: install it (Debian, Ubuntu: apt-get install chromium), or"
  say "set THERMO_BROWSER_TEST=optional to skip them"
  return 1
}

extras=dev
if [ "${1:-}" = --all ]; then
  shift
  extras=dev,flir,onnx,torch
  export THERMO_BROWSER_TEST=${THERMO_BROWSER_TEST:-required}
  [ "$THERMO_BROWSER_TEST" != required ] || need_browser
else
  set -- -m "not slow" "$@"
fi

use_venv "$extras"
# Two processes, because a test mostly waits for XLA's compiler, which hardly uses a second core.
# Each process runs whole test files; tests/conftest.py puts the longest files first.
set -- -n 2 --dist loadfile --no-loadscope-reorder "$@"
say "running python -m pytest $*"
TIMEFORMAT="$(basename "$0"): %R s; CPU time: %U s user, %S s system"
time "$python" -m pytest "$@"
