// How much each input channel of an output projection contributes, for units that are removed whole: a
// channel of the MLP is one column of down, a head group several columns of the attention's output, whose
// scores add up. The lowest go.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

struct UnitScorer {
  std::string_view name;
  StatNeeds needs;
  // weight [O, I] of the output projection -> [I]. num_kept: how many of the columns will stay, for a score
  // that depends on what else goes.
  std::vector<double> (*score)(ConstMatrixView weight, const LayerStats& stats, std::int64_t num_kept,
                               const Backend& backend);
  std::string_view summary;
  std::string_view source;
};

std::span<const UnitScorer> unit_scorers();
// Throws Error{kUsage} naming --score, with the list.
const UnitScorer& unit_scorer(std::string_view name);

// The `count` units of `columns_a_unit` consecutive columns with the highest sums, in rising order; ties go
// to the lower index.
std::vector<std::int64_t> best_units(std::span<const double> column_scores, std::int64_t columns_a_unit,
                                     std::int64_t count);

}  // namespace swiftprune
