#include "swiftprune/sparse/read_ceiling.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <vector>

#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kStreams = 4;  // fewer and more were slower on the processors measured
constexpr std::int64_t kLine = 8;     // words of a cache line: reading one moves them all

std::uint64_t read_lines(const std::uint64_t* words, std::int64_t count) {
  const std::int64_t part = count / kStreams / kLine * kLine;
  std::uint64_t sums[kStreams] = {};
  for (std::int64_t i = 0; i < part; i += kLine) {
    for (std::int64_t s = 0; s < kStreams; ++s) sums[s] ^= words[s * part + i];
  }
  return sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
}

}  // namespace

double measure_read_ceiling(std::int64_t num_bytes, int rounds) {
  const std::int64_t count = num_bytes / 8;
  const std::vector<std::uint64_t> words(static_cast<std::size_t>(count), 1);
  std::atomic<std::uint64_t> sink = 0;  // keeps the reads from being dropped
  double best = std::numeric_limits<double>::infinity();
  for (int r = 0; r < rounds; ++r) {
    const auto start = std::chrono::steady_clock::now();
    parallel_for(count, std::int64_t{1} << 17, [&](std::int64_t first, std::int64_t last) {
      sink += read_lines(words.data() + first, last - first);
    });
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return static_cast<double>(count * 8) / best;
}

}  // namespace swiftprune
