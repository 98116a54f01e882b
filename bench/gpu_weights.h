// Random weights of the GPU's benchmarks, the same on every machine.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "swiftprune/core/parallel.h"
#include "swiftprune/sparse/pack.h"
#include "swiftprune/sparse/pack_quantized.h"
#include "swiftprune/tensor/quantized_weight.h"

namespace swiftprune {

struct RandomShape {
  std::int64_t rows, cols;
};

inline std::uint64_t mixed(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// Normal enough; pruned are the `pruned` smallest of every `group` consecutive weights of a row.
inline std::vector<std::uint16_t> random_weight(RandomShape shape, std::int64_t group, double pruned,
                                                DType dtype) {
  std::vector<std::uint16_t> bits(static_cast<std::size_t>(shape.rows * shape.cols));
  const std::int64_t span = group == 0 ? shape.cols : group;
  const auto count = static_cast<std::ptrdiff_t>(pruned * static_cast<double>(span) + 0.5);
  parallel_for(shape.rows, 16, [&](std::int64_t first, std::int64_t last) {
    std::vector<std::pair<std::uint16_t, std::int64_t>> order(static_cast<std::size_t>(span));
    for (std::int64_t r = first; r < last; ++r) {
      std::uint16_t* row = bits.data() + r * shape.cols;
      for (std::int64_t c = 0; c < shape.cols; ++c) {
        const std::uint64_t random = mixed(static_cast<std::uint64_t>(r * shape.cols + c));
        float sum = 0.0f;
        for (int shift = 0; shift < 64; shift += 16)
          sum += static_cast<float>((random >> shift) & 0xffff) / 65536.0f - 0.5f;
        row[c] = dtype == DType::kF16 ? f32_to_f16(0.02f * sum) : f32_to_bf16(0.02f * sum);
      }
      for (std::int64_t begin = 0; begin < shape.cols; begin += span) {
        for (std::int64_t c = 0; c < span; ++c) {
          order[static_cast<std::size_t>(c)] = {static_cast<std::uint16_t>(row[begin + c] & 0x7fff),
                                                begin + c};
        }
        std::nth_element(order.begin(), order.begin() + count, order.end());
        for (std::ptrdiff_t i = 0; i < count; ++i) row[order[static_cast<std::size_t>(i)].second] = 0;
      }
    }
  });
  return bits;
}

// On a grid of 4 bits with groups of 64; pruned are the first `pruned` of every `group` in a random order.
inline QuantizedWeight random_codes(RandomShape shape, std::int64_t group, double pruned) {
  const auto bits =
      pruned > 0.0 ? random_weight(shape, group, pruned, DType::kBF16) : std::vector<std::uint16_t>{};
  QuantizedWeight weight{{4, 64, false}, shape.rows, shape.cols, {}, {}, {}};
  weight.codes.resize(static_cast<std::size_t>(shape.rows * shape.cols));
  parallel_for(shape.rows, 16, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first * shape.cols; i < last * shape.cols; ++i) {
      const auto code = static_cast<std::uint8_t>(mixed(static_cast<std::uint64_t>(i)) & 15);
      weight.codes[static_cast<std::size_t>(i)] =
          bits.empty() || bits[static_cast<std::size_t>(i)] != 0 ? code : 8;
    }
  });
  weight.scales.assign(static_cast<std::size_t>(shape.rows * weight.grid.groups_of(shape.cols)),
                       f32_to_f16(0.01f));
  return weight;
}

}  // namespace swiftprune
