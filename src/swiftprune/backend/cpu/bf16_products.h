// Sums of outer products over tokens with operands rounded to bf16 and float sums, through oneDNN: Gram and
// cross moments at twice the rate of float where the processor has bf16 products.
#pragma once

#include <cstdint>
#include <vector>

#include "swiftprune/tensor/matrix.h"

namespace swiftprune::cpu {

// What add_cross() and add_gram() multiply, rounded once.
struct Bf16Rows {
  std::int64_t tokens = 0;
  std::vector<std::uint16_t> values;  // [tokens, I] without gaps
};

// a [N, A], b [N, B] -> c [A, B] += aᵀ b in rows [first, first + count) of c: from one multiple of moment_rows_bf16(A)
// to another, or to A. Needs Bf16Linear::available().
void add_cross_bf16(const Bf16Rows& a, const Bf16Rows& b, MatrixView c, std::int64_t first,
                    std::int64_t count);
// x [N, I] -> gram [I, I] += xᵀ x, blocks on and below the diagonal, likewise.
void add_gram_bf16(const Bf16Rows& x, MatrixView gram, std::int64_t first, std::int64_t count);
std::int64_t moment_rows_bf16(std::int64_t n);

}  // namespace swiftprune::cpu
