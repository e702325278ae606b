#!/bin/sh
# Makes .venv with the newest Python found (3.11 at least), fildes in it, and the trap built.
# Run again at will: it does only what is missing. FILDES_PYTHON names an interpreter to use instead.
set -eu
cd "$(dirname "$0")/.."

newest() {
    for minor in 14 13 12 11; do
        for candidate in "python3.$minor" "$HOME"/.pyenv/versions/3.$minor.*/bin/python3 /usr/local/bin/python3.$minor /usr/bin/python3.$minor; do
            if "$candidate" -c "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, $minor))" 2>/dev/null; then
                command -v "$candidate"
                return 0
            fi
        done
    done
    echo "setup: no Python 3.11 or newer with the venv module was found; on Debian: apt-get install python3 python3-venv" >&2
    return 1
}

venv=${FILDES_VENV:-.venv}
if [ ! -x "$venv/bin/python" ]; then
    python=${FILDES_PYTHON:-$(newest)}
    echo "setup: $venv from $("$python" -c 'import sys; print(sys.version.split()[0], sys.executable)')"
    "$python" -m venv "$venv"
fi
stamp="$venv/.set-up"
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
    touch "$stamp"
fi
[ ! -e shim/Makefile ] || make --quiet -C shim
