// The weights on a grid of few bits that change a linear's outputs least: with H = G + damping and a target T
//   E(B) = tr B H Bᵀ - 2 tr T Bᵀ  ->  min over B on the grid, zero where pruned
// whose minimum without a grid is T H⁻¹. From a start near that:
// 1. scales (and zero points) of each group by search, an error of weight j counted H_jj times (grid_search.h);
// 2. column by column, the largest H_jj first, what rounding changes is made up for in the columns that are
//    still to come (GPTQ, arXiv 2210.17323, with groups that stay where they are), through the Cholesky factor
//    of H⁻¹;
// 3. rounds of descent on E itself, which the pass before only approaches: each weight in turn goes to the
//    grid's value nearest to its best, until none moves; kept and pruned weights of a row (of an N:M group)
//    change places where that makes E smaller, the restored one coming back on the grid; then the
//    least-squares scales of all groups of a row at once. E never rises.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/refinement/grid_search.h"
#include "swiftprune/selection/pattern.h"
#include "swiftprune/tensor/mask.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

inline constexpr double kGridDamping = 0.01;  // of n² (docs/method.md)

enum class ColumnOrder { kAsTheyAre, kByDiagonal };

struct GridGram {
  Matrix quadratic;                 // [I, I] H
  std::vector<std::int64_t> order;  // of the columns
  Matrix factor;                    // [I, I] lower triangular L, (H⁻¹)[order, order] = L Lᵀ
  double damping = 0.0;             // in use
  int damping_raised = 0;
};
// H = G + damping·diag(n²), n = `norm` [I] > 0.
GridGram prepare_grid(const Matrix& gram, std::span<const float> norm, double damping, ColumnOrder order,
                      const Backend& backend, std::string_view tensor);

enum class GroupScales {
  kGiven,         // those of `weight`
  kRangeOnTheWay  // range_grid() of a group when its first column comes; for ColumnOrder::kAsTheyAre
};
// Step 2. weight.values: the start on entry, on the grid after it. mask: null keeps all.
void round_columns(const GridGram& gram, const Mask* mask, GroupScales scales, GridWeight& weight,
                   const Backend& backend);

// All three. start [O, I], zero where pruned; target [O, I] T. mask: the start's, and afterwards the result's,
// with as many weights pruned in each row; it keeps `pattern`.
GridWeight solve_on_grid(ConstMatrixView start, Mask& mask, const Pattern& pattern, ConstMatrixView target,
                         const GridGram& gram, const QuantGrid& grid, const Backend& backend);
// E(B) [O], sums in double.
std::vector<double> grid_errors(ConstMatrixView values, ConstMatrixView target, const GridGram& gram,
                                const Backend& backend);

}  // namespace swiftprune
