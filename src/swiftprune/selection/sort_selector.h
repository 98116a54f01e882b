// The specification of every exact selector: a stable ascending sort of the keys, the lowest go.
#pragma once

#include "swiftprune/selection/selector.h"

namespace swiftprune {

class SortSelector final : public Selector {
 public:
  std::string_view name() const override { return "sort"; }

 private:
  SelectionReport do_select(const ScoreView& scores, const PruneTarget& target, Mask& mask,
                            const MutableWeightView* pruned) const override;
};

}  // namespace swiftprune
