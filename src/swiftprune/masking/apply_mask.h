// Masks become zeros, and zeros are checked against a pattern.
#pragma once

#include <cstdint>
#include <optional>

#include "swiftprune/selection/pattern.h"
#include "swiftprune/tensor/mask.h"
#include "swiftprune/tensor/weight_view.h"

namespace swiftprune {

// Pruned weights become +0; kept ones are not touched. Shapes agree.
void apply_mask(const Mask& mask, MutableWeightView weight);
void apply_mask(const Mask& mask, MatrixView weight);

// What is not zero (of either sign) counts as kept.
Mask nonzero_mask(WeightView weight);

struct PatternCheck {
  std::int64_t num_zeros = 0;
  double sparsity = 0.0;                   // num_zeros / numel; 0 when empty
  double max_row_deviation = 0.0;          // largest |sparsity of a row - sparsity|
  bool holds = true;                       // the pattern's rule: always true for kRow and kLayer
  std::optional<std::int64_t> bad_row;     // where the first group or tile breaks it
  std::optional<std::int64_t> bad_column;  // its first column
};

// n:m: at most n nonzero of every m consecutive inputs. Block: every tile all zero, or counted as kept; a
// tile that is partly zero breaks the rule when no kept tile could be (so: more than half of it zero).
PatternCheck check_pattern(WeightView weight, const Pattern& pattern);

}  // namespace swiftprune
