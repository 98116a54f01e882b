// The scores that exist: one maker each, in the file of the same name. `parameter` is the number in brackets
// or the default of the list in scorer.cpp.
#pragma once

#include <memory>

#include "swiftprune/scoring/scorer.h"

namespace swiftprune {

std::unique_ptr<Scorer> make_magnitude_scorer(double parameter);
std::unique_ptr<Scorer> make_random_scorer(double parameter);
std::unique_ptr<Scorer> make_paper_scorer(double parameter);
std::unique_ptr<Scorer> make_contribution_scorer(double parameter);
std::unique_ptr<Scorer> make_wanda_scorer(double parameter);
std::unique_ptr<Scorer> make_ria_scorer(double parameter);
std::unique_ptr<Scorer> make_stade_scorer(double parameter);
std::unique_ptr<Scorer> make_obs_scorer(double parameter);

// column[j] = factor(j), the square root taken in double for scores in w²: |w|·√c orders like w²·c.
template <class Factor>
std::vector<float> column_factors(std::int64_t num_inputs, const Factor& factor) {
  std::vector<float> column(static_cast<std::size_t>(num_inputs));
  for (std::size_t j = 0; j < column.size(); ++j) column[j] = static_cast<float>(factor(j));
  return column;
}

}  // namespace swiftprune
