#!/usr/bin/env bash
# The fuzz targets of build/fuzz as one archive for a machine without this system's packages: the programs without debug
# information (stacks are read with those of BUILD), their libraries but for the C library's, seeds, dictionaries and
# tools/fuzz_campaign.sh. In the unpacked folder: run_fuzz.sh SECONDS JOBS OUT
#
#   tools/fuzz_bundle.sh BUILD INPUTS BUNDLE.tar.xz         (make fuzz-bundle)
set -euo pipefail
build=$1 inputs=$2 bundle=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/fuzz-bundle/lib"
for program in "$build"/*_fuzz; do
  strip -s -o "$work/fuzz-bundle/$(basename "$program")" "$program"
done
ldd "$build"/*_fuzz | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv)\.so' | xargs -I{} cp -L {} "$work/fuzz-bundle/lib/"
strip -s "$work"/fuzz-bundle/lib/*
cp -r "$inputs"/* "$work/fuzz-bundle/"
cp "$(dirname "$0")/fuzz_campaign.sh" "$work/fuzz-bundle/"
cat >"$work/fuzz-bundle/run_fuzz.sh" <<'END'
#!/usr/bin/env bash
# run_fuzz.sh SECONDS JOBS OUT [TARGET...] (fuzz_campaign.sh says what it does)
OUT=${3:?OUT} exec "$(dirname "$0")/fuzz_campaign.sh" "${1:?SECONDS}" "${2:?JOBS}" "${@:4}"
END
chmod +x "$work/fuzz-bundle/run_fuzz.sh"
mkdir -p "$(dirname "$bundle")"
tar -C "$work" -cf - fuzz-bundle | xz --x86 --lzma2=preset=2,dict=64MiB >"$bundle"
ls -l "$bundle"
