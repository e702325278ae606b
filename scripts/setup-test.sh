#!/bin/sh
# What the tests use beside the Python packages: curl, and Debian's HTML of Python's documentation as a real site.
# Installed where root and apt are at hand; what is missing otherwise, the tests say.
set -eu
missing=""
command -v curl >/dev/null || missing="$missing curl"
[ -e /usr/share/doc/python3-doc/html ] || missing="$missing python3-doc"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "setup: some tests will be skipped; for them: apt-get install$missing" >&2
    exit 0
fi
echo "setup: apt-get install$missing"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
