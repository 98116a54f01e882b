// Sparsity spread over a model's linears by sensitivity: the mean stays, but linears whose pruning changes
// the model's output little lose more.
#pragma once

#include <span>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/refinement/refine_spec.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

// M of N:M patterns that take part: smaller groups leave no choice.
inline constexpr std::int64_t kLeastAllocatedGroup = 8;

// What was measured, for records.
struct Allocation {
  std::vector<double> sensitivities;  // of the plan's entries
  double seconds = 0.0;
};

// Shares s_u in [0.05, 0.95] (as far as the mean allows it) with Σ size_u·s_u = sparsity·Σ size_u that
// minimise Σ h_u·φ(s_u). ln φ is linear between ln φ = −1.677, 0, 1.253, 2.167 at s = 0.3, 0.5, 0.7, 0.85, a
// curve measured on single linears (docs/method.md), and goes on with the first slope below and 1.5 times the
// last slope above. sensitivities, sizes: > 0, of equal length.
std::vector<double> allocate_shares(std::span<const double> sensitivities, std::span<const double> sizes,
                                    double sparsity);

// What pruning one linear alone by half changes of the model's final normed hidden state, for every entry of
// the plan (0 for those that it does not prune): the mean relative change, over the first 512 tokens of the
// first window, of the block's own output, times what the later blocks make of the change when the whole
// block is pruned. Each linear is pruned by admm(10,8) on the Gram matrices of up to four windows of the
// dense model.
//
// How: a GPU measures in the same way (cuda/device.h).
inline constexpr std::int64_t kProbeTokens = 512;
inline constexpr std::int64_t kProbeGramWindows = 4;
inline constexpr double kProbeSparsity = 0.5;
inline constexpr AdmmOptions kProbeRefiner{.steps = 10, .ramp = 8};
// Is the entry's sparsity to be chosen? Else nothing is measured for it.
bool is_allocated(const PlanEntry& entry);
// changes: behind each entry's block, with it alone pruned; local, final: of each block, behind it and of the
// final normed hidden state, with the whole block pruned.
std::vector<double> sensitivities_of(const Plan& plan, std::span<const double> changes,
                                     std::span<const double> local, std::span<const double> final_changes);
std::vector<double> measure_sensitivities(const Model& model, const Backend& backend, const Plan& plan,
                                          const TokenWindows& windows, ComputeType compute,
                                          const ProgressFn& progress);

// The same for N:M: how many of m each linear keeps, within m/4 of n, in [1, m - 1]; the mean, weighted by
// size, is n, or as little above it as whole linears allow.
std::vector<std::int64_t> allocate_group_counts(std::span<const double> sensitivities,
                                                std::span<const double> sizes, std::int64_t n,
                                                std::int64_t m);

// Sets the sparsities of the plan's pruned entries with a free share (row, layer, block), with row budgets
// for the pattern row; their mean, weighted by size, stays. Shares become numbers of weights once a matrix,
// so that the mean is exact. N:M entries with M >= 8 become mixed N:M with the same mean; smaller groups
// stay.
void allocate_by_sensitivity(std::span<const double> sensitivities, Plan& plan);

}  // namespace swiftprune
