// |w|·std(x_j) over the calibration tokens (STADE, arXiv 2503.22451)
#include <algorithm>
#include <cmath>

#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

Scores stade(const ScoreInput& input) {
  const LayerStats& stats = input.stats;
  const auto n = static_cast<double>(std::max<std::int64_t>(1, stats.num_tokens));
  Scores scores;
  scores.column = column_factors(input.num_inputs, [&](std::size_t j) {
    const double mean = stats.sum[j] / n;
    return std::sqrt(std::max(0.0, stats.energy[j] / n - mean * mean));
  });
  return scores;
}

}  // namespace

constinit const ScoreKind kStadeScore{.name = "stade",
                                      .summary = "|w|·std(x_j)",
                                      .source = "arXiv 2503.22451",
                                      .needs = {.energy = true, .sum = true},
                                      .from_statistics = stade};

}  // namespace swiftprune
