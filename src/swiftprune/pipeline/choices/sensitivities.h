// How much of the model's output each linear's pruning changes: what allocation (allocate.h) spreads sparsity
// by.
#pragma once

#include <vector>

#include "swiftprune/pipeline/choices/probe_shop.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/refinement/refine_spec.h"

namespace swiftprune {

// What pruning one linear alone by half changes of the model's final normed hidden state, for every entry of
// the plan (0 for those that are not allocated): the mean relative change, over the first 512 tokens of the
// first window, of the block's own output, times what the later blocks make of the change when the whole
// block is pruned. Each linear is pruned by admm(10,8) on the Gram matrices of up to four windows of the
// dense model.
inline constexpr std::int64_t kProbeTokens = 512;
inline constexpr std::int64_t kProbeGramWindows = 4;
inline constexpr double kProbeSparsity = 0.5;
inline constexpr AdmmOptions kProbeRefiner{.steps = 10, .ramp = 8};

struct Sensitivities {
  std::vector<double> values;  // of the plan's entries
  // Since every block passes by: what row budgets read of the others (PruneOptions::readers). Empty when
  // nothing was measured.
  std::vector<RowEffects::Readers> readers;
};
// ranks: each probes every n-th block and lets the windows pass the others; what they measured is exchanged at the end.
Sensitivities measure_sensitivities(const ProbeShopMaker& make_shop, const Model& model, const Plan& plan,
                                    const TokenWindows& windows, ComputeType compute,
                                    const ProgressFn& progress, Communicator& ranks = alone());

}  // namespace swiftprune
