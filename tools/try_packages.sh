#!/usr/bin/env bash
# The packages of dist/ where nothing of ours is: a fresh Debian 12 each for the Debian package and for the wheel, by
# debootstrap and chroot, as root.
#   tools/try_packages.sh FOLDER MODEL TEXT
# MODEL (a folder) is pruned by both on TEXT, and both must write the same bytes.
set -euo pipefail
folder=$1 model=$2 text=$3
base=$folder/bookworm
if [ ! -d "$base" ]; then
  rm -rf "$base.unfinished"
  debootstrap --variant=minbase bookworm "$base.unfinished"
  mv "$base.unfinished" "$base"
fi

fresh() {  # name: a copy of the base with the packages, model and text in /try
  root=$folder/$1
  rm -rf "$root"
  cp -a --reflink=auto "$base" "$root"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  mkdir -p "$root/try"
  cp -r "$model" "$root/try/model"
  cp "$text" "$root/try/text.txt"
  mount --bind /proc "$root/proc"
  mount --rbind /dev "$root/dev"
  trap 'leave' EXIT
}
leave() {
  umount --lazy "$root/proc" "$root/dev"
  trap - EXIT
}
inside() {
  echo "\$ $*"
  chroot "$root" /usr/bin/env DEBIAN_FRONTEND=noninteractive HOME=/root sh -c "cd /try && $*"
}
prune='prune model -o pruned --sparsity 0.5 --calibration text.txt --windows 4'

fresh debian
cp dist/swiftprune_*.deb "$root/try"
inside "apt-get update -q >/dev/null"
inside "apt-get install -q -y --no-install-recommends ./swiftprune_*.deb >apt.log 2>&1 || { cat apt.log; exit 1; }"
inside "swiftprune $prune --quiet"
inside "swiftprune verify model pruned"
inside "swiftprune --version && swiftprune doctor && test -f /usr/share/man/man1/swiftprune-prune.1.gz"
leave
debian=$root

# Debian 12's Python takes a wheel of its own version; the one for 3.12 and newer (abi3) is tested by `make wheel`.
wheel=$(ls -t dist/swiftprune-*-cp311-*.whl 2>/dev/null | head -n 1)
if [ -z "$wheel" ]; then
  echo "no wheel for Python 3.11 in dist: the Debian package alone was tried"
  exit 0
fi
fresh wheel
cp "$wheel" "$root/try"
inside "apt-get update -q >/dev/null"
inside "apt-get install -q -y --no-install-recommends python3-venv >apt.log 2>&1 || { cat apt.log; exit 1; }"
inside "python3 -m venv env && env/bin/pip install -q --find-links . swiftprune"
inside "env/bin/swiftprune $prune --quiet"
inside "env/bin/python -c 'import time; t = time.perf_counter(); import swiftprune; print(f\"import swiftprune: {time.perf_counter() - t:.2f} s\"); \
  swiftprune.prune(\"model\", \"again\", sparsity=0.5, calibration=\"text.txt\", windows=4); print(swiftprune.version_text())'"
leave

for other in "$root/try/pruned" "$root/try/again"; do
  cmp "$debian/try/pruned/model.safetensors" "$other/model.safetensors"
done
echo "the Debian package, the wheel's command and its Python function wrote the same bytes"
