// w²·ē_j: the loss change of zeroing w as each calibration window saw it, ē an EWMA over the windows'
// energies. With a plain sum it would order like Wanda.
#include <cmath>

#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

class ContributionScorer final : public Scorer {
 public:
  std::string name() const override { return "contribution"; }
  StatNeeds needs() const override { return {.ewma_energy = true}; }

 private:
  Scores do_score(WeightView weight, const LayerStats& stats, const Backend&,
                  std::string_view) const override {
    Scores scores;
    scores.power = 2;
    scores.column =
        column_factors(weight.cols, [&](std::size_t j) { return std::sqrt(stats.ewma_energy[j]); });
    return scores;
  }
};

}  // namespace

std::unique_ptr<Scorer> make_contribution_scorer(double) { return std::make_unique<ContributionScorer>(); }

}  // namespace swiftprune
