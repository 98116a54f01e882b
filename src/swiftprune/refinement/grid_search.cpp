#include "swiftprune/refinement/grid_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "swiftprune/core/parallel.h"
#include "swiftprune/refinement/row_loops.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

constexpr float kLeastScale = 6.103515625e-05f;  // 2⁻¹⁴, the least normal f16
constexpr float kLargestScale = 65504.0f;

GroupGrid make_group(double scale, int zero, const QuantGrid& grid) {
  return {scale_of(scale), static_cast<float>(-zero), static_cast<float>(grid.num_codes() - 1 - zero)};
}

struct Range {
  float low = 0.0f;
  float high = 0.0f;
};

Range range_of(std::span<const float> weights) {
  Range range;
  for (const float w : weights) {
    range.low = std::min(range.low, w);
    range.high = std::max(range.high, w);
  }
  return range;
}

}  // namespace

float scale_of(double scale) {
  const double inside = std::clamp(scale, double{kLeastScale}, double{kLargestScale});
  return f16_to_f32(f32_to_f16(static_cast<float>(inside)));
}

float on_grid(const GroupGrid& group, float value) {
  return group.scale * std::nearbyint(std::clamp(value / group.scale, group.lowest, group.highest));
}

GridWeight::GridWeight(const QuantGrid& grid, std::int64_t rows, std::int64_t cols)
    : values(rows, cols),
      grid_(grid),
      num_groups_(grid.groups_of(cols)),
      width_(cols / num_groups_),
      groups_(static_cast<std::size_t>(rows * num_groups_)) {}

GridColumns::GridColumns(std::int64_t size)
    : kept(static_cast<std::size_t>(size)),
      scale(static_cast<std::size_t>(size)),
      lowest(static_cast<std::size_t>(size)),
      highest(static_cast<std::size_t>(size)) {}

void GridColumns::set(std::int64_t j, bool is_kept, const GroupGrid& group) {
  const auto i = static_cast<std::size_t>(j);
  kept[i] = is_kept;
  scale[i] = group.scale;
  lowest[i] = group.lowest;
  highest[i] = group.highest;
}

QuantizedWeight GridWeight::quantized() const {
  QuantizedWeight result;
  result.grid = grid_;
  result.rows = values.rows();
  result.cols = values.cols();
  result.codes.resize(static_cast<std::size_t>(values.numel()));
  for (const GroupGrid& group : groups_) {
    result.scales.push_back(f32_to_f16(group.scale));
    if (grid_.asymmetric) result.zeros.push_back(static_cast<std::uint8_t>(-group.lowest));
  }
  for (std::int64_t r = 0; r < values.rows(); ++r) {
    for (std::int64_t j = 0; j < values.cols(); ++j) {
      const GroupGrid& group = at(r, group_of(j));
      result.codes[static_cast<std::size_t>(r * values.cols() + j)] =
          static_cast<std::uint8_t>(std::lround(values.at(r, j) / group.scale - group.lowest));
    }
  }
  return result;
}

GroupGrid range_grid(std::span<const float> weights, const QuantGrid& grid) {
  const Range range = range_of(weights);
  const double steps = grid.num_codes() - 1;
  if (!grid.asymmetric)
    return make_group(2.0 * double{std::max(range.high, -range.low)} / steps, grid.middle(), grid);
  const double scale = double{scale_of((double{range.high} - double{range.low}) / steps)};
  const auto zero = std::lround(-double{range.low} / scale);
  return make_group(scale, static_cast<int>(std::clamp(zero, 0L, static_cast<long>(steps))), grid);
}

void set_range_grids(GridWeight& weight) {
  parallel_for(weight.values.rows(), 16, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      for (std::int64_t g = 0; g < weight.num_groups(); ++g) {
        const float* group = weight.values.row(r) + g * weight.width();
        weight.at(r, g) = range_grid({group, static_cast<std::size_t>(weight.width())}, weight.grid());
      }
    }
  });
}

GroupGrid searched_grid(std::span<const float> weights, std::span<const float> importance,
                        const QuantGrid& grid) {
  constexpr int kShares = 40;          // of the widest scale
  constexpr double kLeastShare = 0.4;  // of it; a scale below clips too much of any group
  constexpr double kLargestShare = 1.15;
  const RowLoops& loops = row_loops();
  const Range range = range_of(weights);
  const auto largest = grid.num_codes() - 1;
  const double widest = grid.asymmetric ? (double{range.high} - double{range.low}) / largest
                                        : double{std::max(range.high, -range.low)} / grid.middle();
  const auto size = static_cast<std::int64_t>(weights.size());
  GroupGrid best = make_group(widest, grid.middle(), grid);
  if (widest == 0.0) return best;
  float least = std::numeric_limits<float>::infinity();
  const auto try_group = [&](double scale, int zero) {
    const GroupGrid group = make_group(scale, zero, grid);
    const float error =
        loops.grid_error(weights.data(), importance.data(), size, group.scale, group.lowest, group.highest);
    if (error < least) {
      least = error;
      best = group;
    }
  };
  for (int i = 0; i < kShares; ++i) {
    const double scale =
        widest * (kLargestShare - (kLargestShare - kLeastShare) * static_cast<double>(i) / (kShares - 1));
    if (!grid.asymmetric) {
      try_group(scale, grid.middle());
      continue;
    }
    const double middle = 0.5 * (double{range.low} + double{range.high});
    const auto zero = static_cast<int>(std::lround(0.5 * largest - middle / scale));
    for (int shift = -1; shift <= 1; ++shift)
      if (zero + shift >= 0 && zero + shift <= largest) try_group(scale, zero + shift);
  }
  return best;
}

}  // namespace swiftprune
