// |w|·std(x_j) over the calibration tokens (STADE, arXiv 2503.22451)
#include <algorithm>
#include <cmath>

#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

class StadeScorer final : public Scorer {
 public:
  std::string name() const override { return "stade"; }
  StatNeeds needs() const override { return {.energy = true, .sum = true}; }

 private:
  Scores do_score(WeightView weight, const LayerStats& stats, const Backend&,
                  std::string_view) const override {
    const auto n = static_cast<double>(std::max<std::int64_t>(1, stats.num_tokens));
    Scores scores;
    scores.column = column_factors(weight.cols, [&](std::size_t j) {
      const double mean = stats.sum[j] / n;
      return std::sqrt(std::max(0.0, stats.energy[j] / n - mean * mean));
    });
    return scores;
  }
};

}  // namespace

std::unique_ptr<Scorer> make_stade_scorer(double) { return std::make_unique<StadeScorer>(); }

}  // namespace swiftprune
