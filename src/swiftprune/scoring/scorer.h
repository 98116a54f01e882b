// How much each weight of a linear matters: the first of the three parts of a pruning method (scorer ×
// selector × refiner). Every score is positive; the lowest are pruned.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "swiftprune/backend/backend.h"
#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/scoring/scores.h"

namespace swiftprune {

class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual std::string name() const = 0;  // with its parameter: "ria(0.7)"
  virtual StatNeeds needs() const = 0;

  // weight [O, I] -> its scores. `tensor` is the name for messages. Throws Error{kBadInput} when a statistic
  // is not finite, with the input's position.
  Scores score(WeightView weight, const LayerStats& stats, const Backend& backend,
               std::string_view tensor) const;

 private:
  virtual Scores do_score(WeightView weight, const LayerStats& stats, const Backend& backend,
                          std::string_view tensor) const = 0;
};

struct ScorerInfo {
  std::string_view name;
  std::string_view parameter;  // meaning and default of the number in brackets; empty: takes none
  std::string_view summary;
  std::string_view source;
};

std::span<const ScorerInfo> scorers();

// spec: a name of the list, with its parameter in brackets when it takes one: "ria(0.5)". Throws
// Error{kUsage}.
std::unique_ptr<Scorer> make_scorer(std::string_view spec);

}  // namespace swiftprune
