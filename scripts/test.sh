#!/bin/sh
# Runs pytest by the given interpreter: scripts/test.sh PYTHON ARGUMENT...
# What fails is run once more by itself, in the open: these tests start real processes and wait for real deadlines, and a
# machine that others load can miss one. What fails twice has failed.
set -u
python=$1
shift
cache=.pytest_cache/$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -m pytest -o cache_dir="$cache" "$@" && exit 0
status=$?
[ "$status" = 1 ] || exit "$status"
echo "test: once more, only what failed"
exec "$python" -m pytest -o cache_dir="$cache" --last-failed --last-failed-no-failures none "$@"
