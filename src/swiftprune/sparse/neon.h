// What the NEON files share; each gets its own copy, for their flags differ.
#pragma once

#include <algorithm>
#include <array>
#include <iterator>

#include <arm_neon.h>

#include "swiftprune/sparse/kernels.h"

#define SWIFTPRUNE_UNROLL _Pragma("GCC unroll 16")

namespace swiftprune::sparse_kernels {
namespace {

inline void prefetch(const void* address) {
  constexpr int kAhead = 2048;  // bytes
  __builtin_prefetch(static_cast<const char*>(address) + kAhead);
}

// Of eight mask bits; the processor counts bits in vector registers alone.
constexpr std::array<std::uint8_t, 256> kBitCounts = [] {
  std::array<std::uint8_t, 256> counts{};
  for (unsigned m = 0; m < counts.size(); ++m) counts[m] = static_cast<std::uint8_t>(__builtin_popcount(m));
  return counts;
}();

}  // namespace
}  // namespace swiftprune::sparse_kernels
