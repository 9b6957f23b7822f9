#!/usr/bin/env bash
# Installs Prometheus' rule checker from Debian's package, without the server. Usage: install_promtool.sh VENV
# Tests that call it are skipped if it cannot be installed.
set -euo pipefail
venv=$(realpath "$1")
[ ! -x "$venv/bin/promtool" ] || exit 0
without() { echo "note: $1; the tests that call promtool are skipped" >&2; exit 0; }

command -v apt-get >/dev/null || without "no apt-get here to get promtool with"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
download() { apt-get -qq -o APT::Sandbox::User=root download prometheus 2>/dev/null; }
download || { [ "$(id -u)" = 0 ] && apt-get update -qq && download; } || without "the package prometheus cannot be had"
dpkg-deb --extract prometheus_*.deb unpacked
install unpacked/usr/bin/promtool "$venv/bin/promtool"
