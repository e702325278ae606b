#!/bin/sh
# Sets up what the measurements need, and takes them: a venv of its own on the interpreter of .venv, with the servers
# that we are compared with; nginx and wrk from apt, where there is root and apt. Arguments go to `python -m bench`.
set -eu
cd "$(dirname "$0")/.."

venv=.venv-bench
base=$(.venv/bin/python -c 'import sys; print(sys._base_executable)')
if [ "$("$venv/bin/python" -c 'import sys; print(sys._base_executable)' 2>/dev/null)" != "$base" ]; then
    rm -rf "$venv"
    "$base" -m venv "$venv"
fi
stamp="$venv/.set-up"
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ bench/apps/fast/requirements.txt -nt "$stamp" ]; then
    echo "bench: setting up $venv" >&2
    # The peers serve the very versions that the published program has.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[bench]" \
        --requirement bench/apps/fast/requirements.txt
    touch "$stamp"
fi

PATH="$PATH:/usr/sbin:/usr/local/sbin"
missing=
command -v nginx >/dev/null || missing="nginx-light"
command -v wrk >/dev/null || missing="$missing wrk"
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "bench: apt-get install $missing" >&2
        # Installed to be started here and there, not as a service of this machine.
        mask=/usr/sbin/policy-rc.d
        [ -e "$mask" ] && mask= || { printf '#!/bin/sh\nexit 101\n' >"$mask" && chmod +x "$mask"; }
        # shellcheck disable=SC2086
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing; } \
            >/dev/null || echo "bench: apt-get could not install $missing: what needs it is not measured" >&2
        [ -z "$mask" ] || rm -f "$mask"
    else
        echo "bench: not measured is what needs$( [ "${missing# }" = "$missing" ] && echo ' ')$missing; as root: apt-get install $missing" >&2
    fi
fi
exec "$venv/bin/python" -m bench "$@"
