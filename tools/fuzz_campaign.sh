#!/usr/bin/env bash
# All fuzz targets for SECONDS over JOBS cores, so that each gets as many runs as the others; goes on behind crashes.
#
#   tools/fuzz_campaign.sh SECONDS JOBS [TARGET...]
#
# Beside this script, or in $FUZZ_PROGRAMS: the targets (NAME_fuzz) and perhaps lib/ with their libraries; in
# $FUZZ_INPUTS, else beside it: seeds/NAME_fuzz/, dictionaries/NAME_fuzz.dict. Corpora, counts and findings lie in
# $FUZZ_WORK (default: /dev/shm/swiftprune-fuzz), where a next call goes on with them: all that is counted is of all
# calls. On another machine it goes on with what $FUZZ_EARLIER has (default: $FUZZ_INPUTS), an earlier call's $OUT: runs.txt
# and corpus.tar.*; a runs.txt alone, "TARGET RUNS" a line, lets a target wait until the others have as many.
# To $OUT (default: the current folder): at the end of SECONDS runs.txt ("TARGET RUNS CRASHES" a line) and crashes.tar.*
# (inputs and reports), then summary.txt and corpus.tar.* (minimized, which takes up to 3 minutes; FUZZ_MINIMIZE=0: as it
# is), each archive below 16 MiB. Exit code 1: something was found.
set -uo pipefail
seconds=${1:?SECONDS} jobs=${2:?JOBS}
shift 2
here=$(cd "$(dirname "$0")" && pwd)
programs=${FUZZ_PROGRAMS:-$here} inputs=${FUZZ_INPUTS:-$here}
earlier=${FUZZ_EARLIER:-$inputs}
work=${FUZZ_WORK:-$(test -w /dev/shm && echo /dev/shm || echo /tmp)/swiftprune-fuzz} out=${OUT:-.}
if [ $# -gt 0 ]; then targets=("$@"); else targets=($(cd "$programs" && ls | grep -E '^[a-z_]+_fuzz$')); fi
export OMP_NUM_THREADS=1
libraries=$programs/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}  # the targets': this system's programs have their own
# Leaks are looked for elsewhere (make asan). A small quarantine and short stacks of allocations make a run cheaper.
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:quarantine_size_mb=8:malloc_context_size=6:${ASAN_OPTIONS:-}
export UBSAN_OPTIONS=print_stacktrace=1:${UBSAN_OPTIONS:-}

# How long an input may be, and with that a round: most of what is to be found lies in short ones.
max_len() {
  case $1 in
    gguf_fuzz) echo 16384 ;;
    tokenizer_fuzz | chat_template_fuzz) echo 4096 ;;
    packed_tensor_fuzz) echo 3072 ;;
    *) echo 2048 ;;
  esac
}

mkdir -p "$work"/{corpus,crashes,logs,tmp,min,state} "$out"
rm -rf "$work"/{logs,tmp,min}/*
export TMPDIR=$work/tmp
for archive in "$earlier"/corpus.tar.*; do
  if [ -f "$archive" ]; then tar -xf "$archive" -C "$work/corpus"; fi
done

end=$(($(date +%s) + seconds)) slice=40
for name in "${targets[@]}"; do
  mkdir -p "$work/corpus/$name" "$work/min/$name"
  echo 0 >"$work/state/$name.busy"
  if [ -f "$work/state/$name.runs" ]; then continue; fi
  before=$(awk -v name="$name" '$1 == name {n = $2} END {print n + 0}' "$earlier/runs.txt" 2>/dev/null || echo 0)
  for count in runs rank; do echo "$before" >"$work/state/$name.$count"; done
  for count in here ms; do echo 0 >"$work/state/$name.$count"; done  # runs on this machine, and their time
done

# The target with the fewest runs, those counted that are under way; sets name.
take() {
  exec 9>"$work/state/lock"
  flock 9
  name=$(for one in "${targets[@]}"; do
    echo "$(($(<"$work/state/$one.rank") + $(<"$work/state/$one.busy") * $(cat "$work/state/$one.slice" 2>/dev/null || echo 100000))) $one"
  done | sort -n | head -n 1 | cut -d' ' -f2)
  echo $(($(<"$work/state/$name.busy") + 1)) >"$work/state/$name.busy"
  flock -u 9
}
give() {
  local runs
  runs=$(awk '/stat::number_of_executed_units/ {n += $2} END {print n + 0}' "$1")
  exec 9>"$work/state/lock"
  flock 9
  echo $(($(<"$work/state/$name.busy") - 1)) >"$work/state/$name.busy"
  echo $(($(<"$work/state/$name.runs") + runs)) >"$work/state/$name.runs"
  echo $(($(<"$work/state/$name.here") + runs)) >"$work/state/$name.here"
  echo $(($(<"$work/state/$name.ms") + $2)) >"$work/state/$name.ms"
  # A target that ends at once must not take every slice.
  if [ "$runs" -lt 20000 ]; then runs=20000; fi
  echo $(($(<"$work/state/$name.rank") + runs)) >"$work/state/$name.rank"
  echo "$runs" >"$work/state/$name.slice"
  flock -u 9
}
# A core's work: a slice of time for one target after another, whatever ended the last slice.
worker() {
  local name log left begin round=0
  while left=$((end - $(date +%s))) && [ $left -gt 0 ]; do
    take
    round=$((round + 1)) log=$work/logs/$name.$1.$round begin=$(date +%s%N)
    # Others' findings are looked for every 10 s only, and leaks not at all: both cost more than a run.
    LD_LIBRARY_PATH=$libraries "$programs/$name" -max_total_time=$((left < slice + 15 ? left : slice)) -timeout=20 -rss_limit_mb=2500 -print_final_stats=1 \
      -reload=10 -detect_leaks=0 \
      -max_len=$(max_len $name) -dict="$inputs/dictionaries/$name.dict" -artifact_prefix="$work/crashes/$name-" \
      "$work/corpus/$name" "$inputs/seeds/$name" >"$log" 2>&1 || true
    give "$log" $((($(date +%s%N) - begin) / 1000000))
  done
}
for ((i = 0; i < jobs; ++i)); do worker $i & done
wait

# archive NAME FOLDER: the smallest files first, as many as fit.
archive() {
  local pack ending
  if command -v zstd >/dev/null; then pack='zstd -q -9' ending=zst; else pack='xz -2' ending=xz; fi
  (cd "$2" && find . -type f -printf '%s %P\n' | sort -n | awk '{sum += $1 + 600; if (sum < 100e6) print $2}' >"$work/list")
  for limit in 1000000 60000 20000 5000; do
    head -n $limit "$work/list" | tar -C "$2" -cf - -T - | $pack >"$out/$1.tar.$ending"
    [ "$(stat -c %s "$out/$1.tar.$ending")" -lt 16000000 ] && return
  done
}
crashes() { ls "$work/crashes" | grep -c "^$1-"; }

for name in "${targets[@]}"; do echo "$name $(<"$work/state/$name.runs") $(crashes $name)"; done >"$out/runs.txt"
# Reports of the first rounds that ended early.
for log in "$work"/logs/*_fuzz.*[0-9]; do
  if grep -qE 'ERROR: |runtime error: |SUMMARY: ' "$log"; then
    grep -aE -m 1 -A 45 'ERROR: |runtime error: |SUMMARY: ' "$log" | head -c 20000 >"$work/crashes/$(basename "$log").report"
  fi
done
archive crashes "$work/crashes"

minimize() {
  LD_LIBRARY_PATH=$libraries timeout 100 "$programs/$1" -merge=1 -max_len=$(max_len $1) -rss_limit_mb=2500 -timeout=20 \
    "$work/min/$1" "$inputs/seeds/$1" "$work/corpus/$1" >"$work/logs/$1.merge" 2>&1 || true
  LD_LIBRARY_PATH=$libraries timeout 60 "$programs/$1" -runs=0 -max_len=$(max_len $1) "$work/min/$1" >"$work/logs/$1.final" 2>&1 || true
}
kept=corpus
if [ "${FUZZ_MINIMIZE:-1}" = 1 ]; then
  kept=min
  for name in "${targets[@]}"; do minimize $name & done
  wait
fi

{
  printf '%-20s %12s %9s %8s %8s %8s %8s %7s\n' target runs 'runs/s' edges 'of' features inputs crashes
  for name in "${targets[@]}"; do
    runs=$(<"$work/state/$name.runs")
    edges=$(grep -ohE 'cov: [0-9]+' "$work/logs/$name.final" 2>/dev/null | tail -n 1 | cut -d' ' -f2)
    features=$(grep -ohE 'ft: [0-9]+' "$work/logs/$name.final" 2>/dev/null | tail -n 1 | cut -d' ' -f2)
    all=$(grep -ohE '[0-9]+ inline 8-bit counters' "$work/logs/$name.final" 2>/dev/null | head -n 1 | cut -d' ' -f1)
    printf '%-20s %12s %9s %8s %8s %8s %8s %7s\n' $name "$runs" $(($(<"$work/state/$name.here") * 1000 / ($(<"$work/state/$name.ms") + 1))) "${edges:--}" "${all:--}" \
      "${features:--}" "$(ls "$work/$kept/$name" | wc -l)" "$(crashes $name)"
  done
  echo "($seconds s, $jobs workers for ${#targets[@]} targets, $(getconf _NPROCESSORS_ONLN) cores; runs/s: of one worker)"
} >"$out/summary.txt"
cat "$out/summary.txt"
archive corpus "$work/$kept"
ls -l "$out"
[ -z "$(ls "$work/crashes")" ]
