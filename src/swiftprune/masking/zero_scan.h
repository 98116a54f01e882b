// Where a matrix has zeros, in one pass over its bytes: how many, in which groups and tiles, and which
// pattern that makes. What `inspect` shows and `verify` tests; no copy of the weights is made.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "swiftprune/selection/pattern.h"
#include "swiftprune/tensor/weight_view.h"

namespace swiftprune {

struct ZeroScan {
  static constexpr int kNumGroups = 5;     // groups of 2, 4, 8, 16 and 32 consecutive inputs
  static constexpr int kNumTileSizes = 7;  // tiles of 1, 2, ... 64 outputs by 1, 2, ... 64 inputs

  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t num_zeros = 0;  // of either sign
  std::int64_t num_negative_zeros = 0;
  std::int64_t num_not_finite = 0;
  std::int64_t num_zero_rows = 0;
  std::int64_t num_zero_cols = 0;
  // Most nonzero weights of any group; where the groups do not divide the row, the group's size.
  std::array<std::int64_t, kNumGroups> max_kept{};
  // Tiles that are all zero; where the tiles do not divide the matrix, 0.
  std::array<std::array<std::int64_t, kNumTileSizes>, kNumTileSizes> num_zero_tiles{};

  std::int64_t numel() const { return rows * cols; }
  double sparsity() const {
    return numel() == 0 ? 0.0 : static_cast<double>(num_zeros) / static_cast<double>(numel());
  }
};

// weight [O, I]: F32, F16 or BF16.
ZeroScan scan_zeros(WeightView weight);

// N:M or tiles, when the zeros keep to it and so many zeros thrown at random would not; the strictest that
// does. Nothing for a dense or an unstructured matrix.
std::optional<Pattern> find_pattern(const ZeroScan& scan);

}  // namespace swiftprune
