// The low-rank part of "sparse + low rank": of all L [O, I] of rank R the one that takes most from an error E,
//   min tr (E - L) A (E - L)ᵀ,  which is L = Q QᵀE
// with the R leading eigenvectors Q [O, R] of E A Eᵀ (Eckart and Young: with A = F Fᵀ they are the left singular
// vectors of E F). They are found by subspace iteration, Q = orthonormal(E A EᵀQ), from random vectors at first and then
// from the last Q: between two steps of ADMM the error changes little, so a round or two a step follow it. Whatever the
// orthonormal Q, the error falls, by tr QᵀE A EᵀQ.
// Source: the low-rank step of three-block ADMM (3BASiL, NeurIPS 2025); Halko, Martinsson and Tropp, arXiv 0909.4061.
#pragma once

#include <cstdint>
#include <random>
#include <span>

#include "swiftprune/backend/backend.h"
#include "swiftprune/tensor/low_rank.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

class LowRankFit {
 public:
  // 1 <= rank <= outputs
  LowRankFit(std::int64_t outputs, std::int64_t rank);

  // error [O, I], metric [I, I] symmetric; L is then that of `error`.
  void update(ConstMatrixView error, ConstMatrixView metric, int rounds, const Backend& backend);
  ConstMatrixView left() const { return left_.view(); }    // Q [O, R]
  ConstMatrixView right() const { return right_.view(); }  // QᵀE [R, I]

 private:
  void orthonormalise();

  std::mt19937 random_;
  Matrix basis_;  // [R, O] Qᵀ
  Matrix left_, right_;
};

// L/scale (column j of L divided by scale_j) with factors of equal size: both fit 16 bits, and training goes on from
// them well. left [O, R], right [R, I]
LowRank balanced(ConstMatrixView left, ConstMatrixView right, std::span<const float> scale);

}  // namespace swiftprune
