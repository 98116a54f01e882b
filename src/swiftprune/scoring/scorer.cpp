#include "swiftprune/scoring/scorer.h"

#include <cmath>

#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

void check_statistic(std::span<const double> values, std::string_view what, std::int64_t num_inputs,
                     bool non_negative, std::string_view tensor) {
  expect(static_cast<std::int64_t>(values.size()) == num_inputs,
         "score: statistics [I] that the score needs");
  for (std::size_t j = 0; j < values.size(); ++j) {
    if (std::isfinite(values[j]) && (values[j] >= 0.0 || !non_negative)) continue;
    bad_input(
        "{}: {} of the calibration activations: found {} at input {}, expected a finite number; "
        "does the model give finite outputs?",
        tensor, what, values[j], j);
  }
}

void check_statistics(const StatNeeds& need, const LayerStats& stats, std::int64_t num_inputs,
                      std::string_view tensor) {
  if (need.energy) check_statistic(stats.energy, "energy", num_inputs, true, tensor);
  if (need.ewma_energy) check_statistic(stats.ewma_energy, "EWMA energy", num_inputs, true, tensor);
  if (need.sum) check_statistic(stats.sum, "sum", num_inputs, false, tensor);
  if (need.gram) check_gram(stats.gram, num_inputs, tensor);
}

}  // namespace

Scores Scorer::score(WeightView weight, const LayerStats& stats, const Backend& backend,
                     std::string_view tensor) const {
  if (!reads_weights()) return factors(weight.cols, stats, backend, tensor);
  check_statistics(needs(), stats, weight.cols, tensor);
  return spec_.kind().from_weights(weight, {spec_.parameter(), weight.cols, stats, backend, tensor});
}

Scores Scorer::factors(std::int64_t num_inputs, const LayerStats& stats, const Backend& backend,
                       std::string_view tensor) const {
  expect(!reads_weights(), "factors: a score of the statistics alone");
  check_statistics(needs(), stats, num_inputs, tensor);
  return spec_.kind().from_statistics({spec_.parameter(), num_inputs, stats, backend, tensor});
}

std::unique_ptr<Scorer> make_scorer(const ScoreSpec& spec) { return std::make_unique<Scorer>(spec); }

}  // namespace swiftprune
