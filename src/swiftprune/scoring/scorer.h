// How much each weight of a linear matters: the first of the three parts of a pruning method (scorer ×
// selector × refiner). Every score is positive; the lowest are pruned.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "swiftprune/backend/backend.h"
#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/scoring/score_spec.h"
#include "swiftprune/scoring/scores.h"

namespace swiftprune {

class Scorer {
 public:
  explicit Scorer(ScoreSpec spec) : spec_(std::move(spec)) {}
  const ScoreSpec& spec() const { return spec_; }
  const StatNeeds& needs() const { return spec_.needs(); }
  bool reads_weights() const { return spec_.reads_weights(); }

  // weight [O, I] -> its scores. `tensor` is the name for messages. Throws Error{kBadInput} when a statistic
  // is not finite, with the input's position.
  Scores score(WeightView weight, const LayerStats& stats, const Backend& backend,
               std::string_view tensor) const;
  // The same for a score that reads no weights: a device asks for it where the weights are not at hand.
  Scores factors(std::int64_t num_inputs, const LayerStats& stats, const Backend& backend,
                 std::string_view tensor) const;

 private:
  ScoreSpec spec_;
};

std::unique_ptr<Scorer> make_scorer(const ScoreSpec& spec);

}  // namespace swiftprune
