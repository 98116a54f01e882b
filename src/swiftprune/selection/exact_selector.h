// The exact selectors that run on row kernels: one flow for every pattern, two ways to find a row's
// threshold.
#pragma once

#include "swiftprune/selection/scored_rows.h"
#include "swiftprune/selection/selector.h"
#include "swiftprune/selection/threshold_search.h"

namespace swiftprune {

class ExactSelector final : public Selector {
 public:
  ExactSelector(std::string_view name, const RowKernels& kernels, ThresholdSearch::Method method)
      : name_(name), kernels_(kernels), method_(method) {}
  std::string_view name() const override { return name_; }

 private:
  SelectionReport do_select(const ScoreView& scores, const PruneTarget& target, Mask& mask,
                            const MutableWeightView* pruned) const override;
  void select_rows(ScoredRows& rows, const PruneTarget& target, Mask& mask, const MutableWeightView* pruned,
                   SelectionReport& report) const;
  void select_layer(ScoredRows& rows, const PruneTarget& target, Mask& mask) const;

  std::string_view name_;
  const RowKernels& kernels_;
  ThresholdSearch::Method method_;
};

// Kernels for `isa`; empty: the best that cpu_features() allows. Throws Error{kDevice} when this processor or
// build lacks it.
const RowKernels& row_kernels(std::optional<Isa> isa);

// keys > or = threshold are kept, except the first `ties` equal ones; bits past the last column are cleared.
void keep_above(const RowKernels& kernels, const KeyRow& row, const Threshold& threshold,
                std::uint64_t* words);
// +0 where the mask has 0.
void zero_row(const RowKernels& kernels, MutableWeightView weight, std::int64_t r,
              const std::uint64_t* words);

// Whole tiles by their summed scores (double, in row order); ties to the lower tile, counted row by row.
void select_blocks(ScoredRows& rows, const PruneTarget& target, Mask& mask);

}  // namespace swiftprune
