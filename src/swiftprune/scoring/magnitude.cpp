// |w|
#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

class MagnitudeScorer final : public Scorer {
 public:
  std::string name() const override { return "magnitude"; }
  StatNeeds needs() const override { return {}; }

 private:
  Scores do_score(WeightView, const LayerStats&, const Backend&, std::string_view) const override {
    return {};
  }
};

}  // namespace

std::unique_ptr<Scorer> make_magnitude_scorer(double) { return std::make_unique<MagnitudeScorer>(); }

}  // namespace swiftprune
