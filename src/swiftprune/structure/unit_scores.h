// How much each input channel of an output projection contributes, for units that are removed whole: a
// channel of the MLP is one column of down, a head group several columns of the attention's output, whose
// scores add up. The lowest go.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

// What a score reads of an output projection [O, I] and its inputs, wherever it was measured.
struct UnitEvidence {
  std::function<std::vector<double>()> squared;   // [I] Σ_o w_oj²
  std::function<std::vector<double>()> absolute;  // [I] Σ_o |w_oj|
  const LayerStats& stats;
  std::int64_t num_kept = 0;  // how many of the columns will stay, for a score that depends on what else goes
  // With only the columns `left` there and refitted: what the output's error rises by when one of them goes
  // too, of each.
  std::function<std::vector<double>(std::span<const std::int64_t> left, double damping)> refit_costs;
};

struct UnitScorer {
  std::string_view name;
  StatNeeds needs;
  std::vector<double> (*score)(const UnitEvidence& evidence);  // [I]
  std::string_view summary;
  std::string_view source;
};

std::span<const UnitScorer> unit_scorers();
// Throws Error{kUsage} naming --score, with the list.
const UnitScorer& unit_scorer(std::string_view name);
// [I] of weight [O, I].
std::vector<double> score_columns(const UnitScorer& scorer, ConstMatrixView weight, const LayerStats& stats,
                                  std::int64_t num_kept, const Backend& backend);

// [units] sums over the `columns_a_unit` consecutive columns of each.
std::vector<double> unit_sums(std::span<const double> column_scores, std::int64_t columns_a_unit);

// The `count` units of `columns_a_unit` consecutive columns with the highest sums, in rising order; ties go
// to the lower index.
std::vector<std::int64_t> best_units(std::span<const double> column_scores, std::int64_t columns_a_unit,
                                     std::int64_t count);

}  // namespace swiftprune
