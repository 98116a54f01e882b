// Sums of outer products over tokens with operands rounded to bf16 and float sums, through oneDNN: Gram and
// cross moments at twice the rate of float where the processor has bf16 products.
#pragma once

#include "swiftprune/tensor/matrix.h"

namespace swiftprune::cpu {

// a [N, A], b [N, B] -> c [A, B] += aᵀ b. Needs Bf16Linear::available().
void add_cross_bf16(ConstMatrixView a, ConstMatrixView b, MatrixView c);
// x [N, I] -> gram [I, I] += xᵀ x, blocks on and below the diagonal.
void add_gram_bf16(ConstMatrixView x, MatrixView gram);

}  // namespace swiftprune::cpu
