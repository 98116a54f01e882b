// The scores that exist, each in the file of its name: declare it here and put it in the list.
#pragma once

#include <array>
#include <vector>

#include "swiftprune/scoring/score_spec.h"

namespace swiftprune {

extern const ScoreKind kMagnitudeScore, kRandomScore, kPaperScore, kContributionScore, kWandaScore, kRiaScore,
    kStadeScore, kObsScore;

inline constexpr std::array kScoreKinds = {&kMagnitudeScore, &kRandomScore, &kPaperScore, &kContributionScore,
                                           &kWandaScore,     &kRiaScore,    &kStadeScore, &kObsScore};

// column[j] = factor(j), the square root taken in double for scores in w²: |w|·√c orders like w²·c.
template <class Factor>
std::vector<float> column_factors(std::int64_t num_inputs, const Factor& factor) {
  std::vector<float> column(static_cast<std::size_t>(num_inputs));
  for (std::size_t j = 0; j < column.size(); ++j) column[j] = static_cast<float>(factor(j));
  return column;
}

}  // namespace swiftprune
