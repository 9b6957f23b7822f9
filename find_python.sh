#!/usr/bin/env bash
# Print the path of the Python that the environment is made with: 3.11 or 3.12. Usage: find_python.sh [PYTHON]
# A PYTHON that is named is taken or refused. Else it is looked for: on PATH, among pyenv's, among uv's. Where there is
# none, the system's package manager (as root on Debian or Ubuntu) or uv brings one, as far as the network allows it.
set -euo pipefail
named=${1:-}
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# version and path of an interpreter, empty for what is none or cannot be run (a shim of pyenv, a broken link)
described() {
    "$1" -c 'import platform, sys; print("%d.%d" % sys.version_info[:2], platform.python_implementation(), sys.executable)' \
        2>/dev/null </dev/null || true
}

# print its path and end if it can be used
take() {
    case $(described "$1") in
        "3.11 CPython "* | "3.12 CPython "*) described "$1" | cut -d ' ' -f 3-; exit 0 ;;
    esac
}

look() {
    local candidate version
    for candidate in python3 python3.12 python3.11 python; do
        ! command -v "$candidate" >/dev/null || take "$candidate"
    done
    for version in 3.12 3.11; do
        for candidate in "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$version".*/bin/python; do
            [ ! -x "$candidate" ] || take "$candidate"
        done
    done
    ! command -v uv >/dev/null || look_with_uv uv
}

look_with_uv() {
    local version candidate
    for version in 3.12 3.11; do
        candidate=$(UV_PYTHON_DOWNLOADS=never "$1" python find --no-project --no-config "$version" 2>/dev/null || true)
        [ -z "$candidate" ] || take "$candidate"
    done
}

can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }
apt_install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1; }

bring_with_apt() {
    local version
    can_install || return 0
    apt-get update -qq >/dev/null 2>&1 || true
    for version in 3.12 3.11; do
        if apt_install "python$version" "python$version-venv"; then
            echo "installed python$version" >&2
            look
        fi
    done
}

# uv itself comes from the package index, by whatever Python there is
find_uv() {
    local python
    if command -v uv; then return; fi
    python=$(command -v python3) || return 1
    "$python" -m venv "$scratch/uv" >/dev/null 2>&1 \
        || { can_install && apt_install python3-venv && "$python" -m venv --clear "$scratch/uv" >/dev/null 2>&1; } || return 1
    # shellcheck disable=SC2086  # PIP_OPTIONS is a list of options
    "$scratch/uv/bin/python" -m pip install --quiet --disable-pip-version-check ${PIP_OPTIONS:-} \
        "$(grep '^uv==' constraints.txt)" >/dev/null 2>&1 || return 1
    echo "$scratch/uv/bin/uv"
}

bring_with_uv() {
    local uv
    uv=$(find_uv) || { reason="uv is not here and could not be installed"; return; }
    echo "looking for a Python 3.12 on the network, with uv ..." >&2
    if UV_HTTP_RETRIES=${UV_HTTP_RETRIES:-0} UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-30} \
        "$uv" python install --no-config --no-progress 3.12 >"$scratch/told" 2>&1; then
        look_with_uv "$uv"
    fi
    reason="uv could not bring one: $(tail -n 1 "$scratch/told" | sed 's/^ *\(cause: \)*//')"
}

refuse() {
    local here
    here=$(described python3 | cut -d ' ' -f 1)
    cat >&2 <<TEXT
error: no Python 3.11 or 3.12 was found (python3 is ${here:-missing}), and $reason.
nvidia-pytriton 0.7.0 and tritonclient 2.51.0 need numpy 1, which has no wheels for Python 3.13 and later.
  Debian 12, Ubuntu 24.04: apt-get install python3.11 python3.11-venv (Ubuntu: python3.12 python3.12-venv)
  Debian 13, which has 3.13 alone: apt-get install python3-venv; python3 -m venv ~/uv; ~/uv/bin/pip install uv;
      ~/uv/bin/uv python install 3.12 (or pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.12)
Then run this again; PYTHON=/path/to/python3.12 names one that is not found by itself.
TEXT
    exit 1
}

if [ -n "$named" ]; then
    command -v "$named" >/dev/null || { echo "error: there is no PYTHON=$named" >&2; exit 1; }
    take "$named"
    version=$(described "$named" | cut -d ' ' -f 1-2)
    echo "error: PYTHON=$named is ${version:-no Python that runs}; accepted: CPython 3.11 or 3.12" >&2
    exit 1
fi
reason=""
look
bring_with_apt
bring_with_uv
refuse
