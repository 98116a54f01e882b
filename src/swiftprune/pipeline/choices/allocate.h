// Sparsity spread over a model's linears by sensitivity: the mean stays, but linears whose pruning changes
// the model's output little lose more.
#pragma once

#include <span>
#include <vector>

#include "swiftprune/pipeline/plan.h"

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

// ln φ at this share.
double allocated_log_cost(double share);

// Is the entry's sparsity to be chosen? Else nothing is measured for it.
bool is_allocated(const PlanEntry& entry);

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
