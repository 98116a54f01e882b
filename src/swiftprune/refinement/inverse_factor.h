// The factor that column-by-column compensation works with (SparseGPT, GPTQ): H⁻¹ = L Lᵀ of a damped Gram
// matrix.
#pragma once

#include <string_view>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

struct DampedFactor {
  Matrix factor;           // [I, I] lower triangular L = Uᵀ
  double damping = 0.0;    // in use, relative to the unit asked for
  int damping_raised = 0;  // how often it was raised tenfold
};

// Of a [I, I], symmetric, both halves; nothing is added where an input was 0 throughout. Throws
// Error{kBadInput} naming the tensor where no damping will do.
DampedFactor damped_factor(ConstMatrixView a, Damping damping, const Backend& backend,
                           std::string_view tensor);

struct InverseFactor {
  Matrix factor;           // [I, I] lower triangular L = Uᵀ
  std::vector<bool> dead;  // [I] inputs that were 0 throughout; they have the mean energy here
  double unit = 1.0;       // mean of the Gram matrix's diagonal
  double damping = 0.0;    // in use, relative to unit
  int damping_raised = 0;  // how often it was raised tenfold
};

// gram [I, I]: both halves. Throws Error{kBadInput} naming the tensor where no damping will do.
InverseFactor inverse_factor(const Matrix& gram, double damping, const Backend& backend,
                             std::string_view tensor);

}  // namespace swiftprune
