// w² / [(G + 1 % of its mean diagonal)⁻¹]_jj: Optimal Brain Surgeon (Hassibi, Stork 1992) with the Hessian of
// the layer's output error.
#include <cmath>

#include "swiftprune/scoring/damped_inverse.h"
#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

constexpr double kDamping = 0.01;

class ObsScorer final : public Scorer {
 public:
  std::string name() const override { return "obs"; }
  StatNeeds needs() const override { return {.gram = true}; }

 private:
  Scores do_score(WeightView weight, const LayerStats& stats, const Backend& backend,
                  std::string_view tensor) const override {
    const DampedInverse inverse = damped_inverse(stats.gram->view(), kDamping, backend, tensor);
    Scores scores;
    scores.power = 2;
    scores.column = column_factors(weight.cols, [&](std::size_t j) {
      const auto i = static_cast<std::int64_t>(j);
      return 1.0 / std::sqrt(double{inverse.inverse.at(i, i)});
    });
    return scores;
  }
};

}  // namespace

std::unique_ptr<Scorer> make_obs_scorer(double) { return std::make_unique<ObsScorer>(); }

}  // namespace swiftprune
