// Compensation without training: with only the columns K of a linear left, its weights are refitted by least
// squares so that the kept inputs express what the removed ones contributed. With the inputs x of the shrunk
// model, G = Σ x xᵀ, and beside the dense model C = Σ x_d xᵀ, R = Σ (r_d - r) xᵀ of the residuals that the
// output joins (activation_stats.h), the output is to be
//   T = W·[(1 - α)G + αC] + βR,
// and the solution on K is B = (T_K/n + δ·W'_K)·(G_KK/(n nᵀ) + δI)⁻¹/n with n_j = √(G_jj + 1e-8·mean),
// W' = W·n: one Cholesky solve for each linear. δ leads back to the kept weights as they are.
// Source: docs/method.md; refinement/aligned_admm.h uses the same target for single weights.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/scoring/layer_stats.h"

namespace swiftprune {

inline constexpr double kRefitEnergyFloor = 1e-8;  // of the mean, in n

struct RefitOptions {
  double damping = 0.1;  // δ
  double alpha = 0.0;    // share of the inputs' error that is made up for
  double beta = 0.0;     // share of the residual's error
};

// The solution and what it was made of, for the columns K in units of n.
struct ColumnFit {
  Matrix scaled;              // [O, |K|] B·n
  Matrix inverse;             // [|K|, |K|] (G_KK/(n nᵀ) + δI)⁻¹
  std::vector<double> norms;  // [|K|] n
};
ColumnFit fit_columns(ConstMatrixView weight, const LayerStats& stats, std::span<const std::int64_t> kept,
                      const RefitOptions& options, const Backend& backend, std::string_view tensor);

// weight [O, I], stats of its inputs with a Gram matrix, kept: rising columns -> [O, |kept|].
Matrix refit_columns(ConstMatrixView weight, const LayerStats& stats, std::span<const std::int64_t> kept,
                     const RefitOptions& options, const Backend& backend, std::string_view tensor);

// [O]: (W - B)·mean x, what a bias must add so that the mean output stays (FLAP's compensation when B is W
// without the removed columns). shrunk [O, I]: zero in them. stats: with sums.
std::vector<float> mean_error(ConstMatrixView weight, ConstMatrixView shrunk, const LayerStats& stats);

// [R, |columns|], [|rows|, C]
Matrix take_columns(ConstMatrixView m, std::span<const std::int64_t> columns);
Matrix take_rows(ConstMatrixView m, std::span<const std::int64_t> rows);

}  // namespace swiftprune
