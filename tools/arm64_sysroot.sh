#!/usr/bin/env bash
# The arm64 packages that are named, with all that they need, unpacked into a folder that cmake/aarch64.cmake builds against.
# Nothing of this machine's own packages changes.
#   tools/arm64_sysroot.sh FOLDER PACKAGES...
set -euo pipefail
out=$(realpath -m "$1")
shift
if [ "$(cat "$out/packages" 2>/dev/null)" = "$*" ]; then exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists,archives}/partial
touch "$work/status"
apt=(apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o "Dir::State::lists=$work/lists" -o "Dir::State::status=$work/status"
  -o "Dir::Cache::archives=$work/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Install-Recommends=false
  -o APT::Sandbox::User=root -o Debug::NoLocking=true)
"${apt[@]}" update
"${apt[@]}" -y --download-only install "$@"
rm -rf "$out"
mkdir -p "$out"
for package in "$work"/archives/*.deb; do dpkg -x "$package" "$out"; done
echo "$*" > "$out/packages"
