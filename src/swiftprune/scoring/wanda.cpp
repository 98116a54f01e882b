// |w|·√e_j (arXiv 2306.11695)
#include <cmath>

#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

class WandaScorer final : public Scorer {
 public:
  std::string name() const override { return "wanda"; }
  StatNeeds needs() const override { return {.energy = true}; }

 private:
  Scores do_score(WeightView weight, const LayerStats& stats, const Backend&,
                  std::string_view) const override {
    Scores scores;
    scores.column = column_factors(weight.cols, [&](std::size_t j) { return std::sqrt(stats.energy[j]); });
    return scores;
  }
};

}  // namespace

std::unique_ptr<Scorer> make_wanda_scorer(double) { return std::make_unique<WandaScorer>(); }

}  // namespace swiftprune
