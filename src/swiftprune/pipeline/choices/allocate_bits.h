// Bits and zeros spread over a model's linears together: under a mean of bits a weight, as packed, each linear gets the
// bits of its codes and its sparsity by its sensitivity (sensitivities.h) and by what such a level costs
// (docs/method.md, "Bits and zeros for a budget").
#pragma once

#include <span>
#include <vector>

#include "swiftprune/pipeline/plan.h"

namespace swiftprune {

struct BitsGoal {
  double mean = 0.0;      // bits a weight of all linears on grids, codes, bitmaps and scales: at most so many
  std::vector<int> bits;  // of codes, to choose from (kQuantBits)
  bool zeros = true;      // false: no linear is pruned
};

// ψ: what holding a linear in codes of so many bits with this share of zeros changes, in units of what 50 % zeros
// without a grid change.
double level_cost(int bits, double sparsity);

// Bits a weight that the plan's linears on grids take, packed, with the zeros that it asks for.
double packed_bits(const Plan& plan);

// Throws Error{kUsage} naming --bits for a mean that the plan's linears cannot have, with the nearest that they can.
void check_bits(const BitsGoal& goal, const Plan& plan);

// Sets grid and sparsity of every linear on a grid that is not fixed, and row budgets for the pattern row, so that
// Σ h_u·ψ is least (Lagrangian) while the mean of all linears on grids is at most goal.mean; what single linears leave
// of it goes to those that gain most. Groups and zero points stay as the plan's. sensitivities: of the entries.
void allocate_bits(std::span<const double> sensitivities, const BitsGoal& goal, Plan& plan);

}  // namespace swiftprune
