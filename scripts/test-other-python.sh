#!/bin/sh
# pytest with the given arguments on the oldest Python that is supported, where that is not the one of .venv.
set -eu
cd "$(dirname "$0")/.."
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }
[ "$(version .venv/bin/python)" != 3.11 ] || { echo "test: .venv is Python 3.11, the oldest supported: nothing more to run"; exit 0; }
for python in /usr/bin/python3.11 python3.11 "$HOME"/.pyenv/versions/3.11.*/bin/python3; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        FILDES_VENV=.venv-3.11 FILDES_PYTHON=$python sh scripts/setup.sh
        exec .venv-3.11/bin/python -m pytest "$@"
    fi
done
echo "test: no Python 3.11 with the venv module here: run on $(version .venv/bin/python) only"
