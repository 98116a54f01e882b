// Cholesky factor on the backend's products.
#pragma once

#include "swiftprune/backend/backend.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

// a [n, n] symmetric: its lower triangle becomes L with A = L Lᵀ, the upper one zero. False, with `a`
// destroyed, when a pivot is not positive.
[[nodiscard]] bool cholesky(MatrixView a, const Backend& backend);

}  // namespace swiftprune
