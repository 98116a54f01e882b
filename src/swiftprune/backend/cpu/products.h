// Matrix products of the CPU backend: oneDNN's sgemm, one thread a tile. The tiles depend on the sizes alone,
// so results are the same bits with any number of threads.
#pragma once

#include <span>

#include "swiftprune/tensor/matrix.h"

namespace swiftprune::cpu {

// c = alpha op(a) op(b) + beta c, on the calling thread; op transposes when the flag is set.
void sgemm(bool a_transposed, bool b_transposed, float alpha, ConstMatrixView a, ConstMatrixView b,
           float beta, MatrixView c);

// The same in parallel; a is never transposed.
void matmul(ConstMatrixView a, ConstMatrixView b, bool b_transposed, float alpha, float beta, MatrixView c);
// x [N, I], weight [O, I], bias [O] or empty -> y [N, O]
void linear(ConstMatrixView x, ConstMatrixView weight, std::span<const float> bias, MatrixView y);
// gram [I, I] += xᵀ x on the tiles that touch the lower triangle, in its rows [first, first + count): from one multiple
// of moment_rows(I) to another, or to I
void add_gram(ConstMatrixView x, MatrixView gram, std::int64_t first, std::int64_t count);
// a [N, A], b [N, B] -> c [A, B] += aᵀ b, likewise
void add_cross(ConstMatrixView a, ConstMatrixView b, MatrixView c, std::int64_t first, std::int64_t count);
std::int64_t moment_rows(std::int64_t n);
// Rows of matmul() that are a task of their own; `rows` where the outputs are but one task wide, for then oneDNN's
// threads depend on how many rows there are.
std::int64_t product_rows(std::int64_t rows, std::int64_t outputs);
bool invert_spd(MatrixView a);

}  // namespace swiftprune::cpu
