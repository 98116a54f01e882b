// Weights [O, I] on a grid of few bits (tensor/quantized_weight.h) in the making: the values and their
// groups' scales and zero points, and the two ways to find the latter: from the range of the weights, as RTN
// and GPTQ (arXiv 2210.17323) do, and by search for the least weighted error.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/tensor/matrix.h"
#include "swiftprune/tensor/quantized_weight.h"

namespace swiftprune {

// The grid of one group: scale·{lowest, ..., highest}, which holds 0.
struct GroupGrid {
  float scale = 1.0f;    // an f16 number, > 0
  float lowest = 0.0f;   // -zero point
  float highest = 0.0f;  // largest code - zero point
};

class GridWeight {
 public:
  GridWeight(const QuantGrid& grid, std::int64_t rows, std::int64_t cols);

  const QuantGrid& grid() const { return grid_; }
  std::int64_t num_groups() const { return num_groups_; }
  std::int64_t group_of(std::int64_t col) const { return col / width_; }
  std::int64_t width() const { return width_; }  // inputs of a group
  GroupGrid& at(std::int64_t row, std::int64_t group) {
    return groups_[static_cast<std::size_t>(row * num_groups_ + group)];
  }
  const GroupGrid& at(std::int64_t row, std::int64_t group) const {
    return groups_[static_cast<std::size_t>(row * num_groups_ + group)];
  }

  Matrix values;  // [O, I] on the grid

  QuantizedWeight quantized() const;

 private:
  QuantGrid grid_;
  std::int64_t num_groups_;
  std::int64_t width_;
  std::vector<GroupGrid> groups_;
};

// What RowLoops::compensate_rounding() reads of a row's columns.
struct GridColumns {
  explicit GridColumns(std::int64_t size);
  void set(std::int64_t j, bool is_kept, const GroupGrid& group);
  std::vector<unsigned char> kept;
  std::vector<float> scale, lowest, highest;
};

// The nearest f16 that is normal, so that it has all its bits.
float scale_of(double scale);
// The nearest value of the grid.
float on_grid(const GroupGrid& group, float value);

// From the least and the largest weight (and 0): symmetric max|w|/((codes - 1)/2), as GPTQ's quantizer.
GroupGrid range_grid(std::span<const float> weights, const QuantGrid& grid);
// range_grid() of every group of weight.values.
void set_range_grids(GridWeight& weight);
// Of many scales and zero points the ones with the least Σ_j importance_j·(w_j - value_j)².
GroupGrid searched_grid(std::span<const float> weights, std::span<const float> importance,
                        const QuantGrid& grid);

}  // namespace swiftprune
