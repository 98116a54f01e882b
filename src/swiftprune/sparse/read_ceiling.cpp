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

std::uint64_t read_words(const std::uint64_t* words, std::int64_t count) {
  constexpr std::int64_t kStep = 8;  // one cache line
  const std::int64_t part = count / kStreams / kStep * kStep;
  std::uint64_t sums[kStreams][kStep] = {};
  for (std::int64_t i = 0; i < part; i += kStep) {
    for (std::int64_t s = 0; s < kStreams; ++s) {
      for (std::int64_t j = 0; j < kStep; ++j) sums[s][j] ^= words[s * part + i + j];
    }
  }
  std::uint64_t all = 0;
  for (const auto& stream : sums) {
    for (const std::uint64_t sum : stream) all ^= sum;
  }
  return all;
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
      sink += read_words(words.data() + first, last - first);
    });
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return static_cast<double>(count * 8) / best;
}

}  // namespace swiftprune
