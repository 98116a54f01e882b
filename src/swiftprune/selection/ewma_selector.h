// The selector of the SwiftPrune paper as published: no sort and no count, one pass along each row with an
// EWMA of the scores' mean and deviation (as in TCP's retransmission timer):
//   keep if L >= mean + lambda·dev;  dev <- (1-beta)·dev + beta·|L - mean|;  mean <- (1-alpha)·mean + alpha·L
// from mean = L_0, dev = L_0 / 2 at the start of each row. It does not hit a sparsity by itself: without a
// lambda, one lambda a matrix is found by bisection.
#pragma once

#include "swiftprune/selection/selector.h"

namespace swiftprune {

class EwmaSelector final : public Selector {
 public:
  explicit EwmaSelector(const SelectorOptions& options);
  std::string_view name() const override { return "ewma"; }

 private:
  SelectionReport do_select(const ScoreView& scores, const PruneTarget& target, Mask& mask,
                            const MutableWeightView* pruned) const override;

  SelectorOptions options_;
};

}  // namespace swiftprune
