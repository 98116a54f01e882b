// w² / (1 - e_j/(S + ε)), S = Σ e_j, ε = 1e-6·S: the SwiftPrune paper's loss change. It is Optimal Brain
// Surgeon's w²/(2[H⁻¹]_jj) for the rank-one Hessian xxᵀ + λI by Sherman-Morrison.
#include <cmath>
#include <numeric>

#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

class PaperScorer final : public Scorer {
 public:
  std::string name() const override { return "paper"; }
  StatNeeds needs() const override { return {.energy = true}; }

 private:
  Scores do_score(WeightView weight, const LayerStats& stats, const Backend&,
                  std::string_view) const override {
    const double total = std::accumulate(stats.energy.begin(), stats.energy.end(), 0.0);
    const double bound = total > 0.0 ? total * (1.0 + 1e-6) : 1.0;
    Scores scores;
    scores.power = 2;
    scores.column = column_factors(
        weight.cols, [&](std::size_t j) { return 1.0 / std::sqrt(1.0 - stats.energy[j] / bound); });
    return scores;
  }
};

}  // namespace

std::unique_ptr<Scorer> make_paper_scorer(double) { return std::make_unique<PaperScorer>(); }

}  // namespace swiftprune
