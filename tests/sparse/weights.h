// Pruned 16-bit weights for the tests, from seeds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "swiftprune/sparse/pack.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace swiftprune::testing_sparse {

struct TestWeight {
  std::vector<std::uint16_t> bits;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  DType dtype = DType::kBF16;

  WeightBits view() const { return {bits, rows, cols, dtype}; }
};

inline std::uint16_t to_bits(float value, DType dtype) {
  return dtype == DType::kBF16 ? f32_to_bf16(value) : f32_to_f16(value);
}

inline TestWeight random_weight(std::int64_t rows, std::int64_t cols, DType dtype, double sparsity,
                                std::uint32_t seed = 1) {
  TestWeight w{std::vector<std::uint16_t>(static_cast<std::size_t>(rows * cols)), rows, cols, dtype};
  std::mt19937 engine(seed);
  std::normal_distribution<float> value(0.0f, 0.05f);
  std::uniform_real_distribution<double> chance(0.0, 1.0);
  for (std::uint16_t& bits : w.bits) {
    const std::uint16_t drawn = to_bits(value(engine), dtype);
    bits = chance(engine) < sparsity ? std::uint16_t{0} : drawn;
  }
  return w;
}

// Keeps n of every m columns, less those that are zero anyhow (`sparsity`).
inline TestWeight random_nm_weight(std::int64_t rows, std::int64_t cols, DType dtype, int n, int m,
                                   double sparsity = 0.1) {
  TestWeight w = random_weight(rows, cols, dtype, sparsity);
  std::mt19937 engine(2);
  std::vector<int> order(static_cast<std::size_t>(m));
  for (std::int64_t first = 0; first < rows * cols; first += m) {
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), engine);
    for (int j = n; j < m; ++j)
      w.bits[static_cast<std::size_t>(first + order[static_cast<std::size_t>(j)])] = 0;
  }
  return w;
}

// Every 16x16 tile is zero with probability `sparsity`.
inline TestWeight random_block_weight(std::int64_t rows, std::int64_t cols, DType dtype, double sparsity,
                                      std::uint32_t seed = 1) {
  TestWeight w = random_weight(rows, cols, dtype, 0.0, seed);
  std::mt19937 engine(seed + 1);
  std::uniform_real_distribution<double> chance(0.0, 1.0);
  for (std::int64_t r = 0; r < rows; r += 16) {
    for (std::int64_t c = 0; c < cols; c += 16) {
      if (chance(engine) >= sparsity) continue;
      for (std::int64_t i = r; i < std::min(rows, r + 16); ++i) {
        for (std::int64_t j = c; j < std::min(cols, c + 16); ++j) {
          w.bits[static_cast<std::size_t>(i * cols + j)] = 0;
        }
      }
    }
  }
  return w;
}

// Codes over the whole grid; every code is its zero point with probability `sparsity`, and all but at most n
// of every four where n is given.
inline QuantizedWeight random_grid_weight(std::int64_t rows, std::int64_t cols, const QuantGrid& grid,
                                          double sparsity, int n = 4, std::uint32_t seed = 1) {
  QuantizedWeight w{grid, rows, cols, {}, {}, {}};
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> chance(0.0, 1.0);
  const std::int64_t groups = grid.groups_of(cols);
  for (std::int64_t i = 0; i < rows * groups; ++i) {
    w.scales.push_back(f32_to_f16(0.001f + 0.01f * static_cast<float>(chance(engine))));
    if (grid.asymmetric)
      w.zeros.push_back(static_cast<std::uint8_t>(engine() % static_cast<unsigned>(grid.num_codes())));
  }
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    const std::int64_t col = i % cols;
    const int zero = w.zero_of(i / cols, grid.group == 0 ? 0 : col / grid.group);
    const auto code = static_cast<int>(engine() % static_cast<unsigned>(grid.num_codes()));
    int kept = 0;
    for (std::int64_t j = col % 4; j > 0; --j) {
      kept += w.codes[static_cast<std::size_t>(i - j)] != zero ? 1 : 0;
    }
    const bool pruned = chance(engine) < sparsity || kept >= n;
    w.codes.push_back(static_cast<std::uint8_t>(pruned ? zero : code));
  }
  return w;
}

}  // namespace swiftprune::testing_sparse
