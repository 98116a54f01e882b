// The Gram matrix of inputs as a linear with bf16 operands sees them: half the time of a float one where the
// processor has bf16 products, and what the least squares of such a linear are about.
#pragma once

#include "swiftprune/backend/backend.h"

namespace swiftprune {

// x [N, I] -> gram [I, I] += r(x)ᵀ r(x), r rounding to bf16, with float sums. Like Backend::add_gram() only
// blocks on and below the diagonal are computed; call Backend::symmetrize() once at the end. `backend`
// computes it where the processor has no bf16 products. The result does not depend on the number of threads.
void add_rounded_gram(const Backend& backend, ConstMatrixView x, MatrixView gram);

}  // namespace swiftprune
