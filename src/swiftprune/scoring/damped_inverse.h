// (G + damping·mean(diag G)·I)⁻¹ of a Gram matrix. A Gram of fewer tokens than inputs has no inverse by
// itself; where rounding still makes it indefinite the damping is raised tenfold until the inverse exists.
#pragma once

#include <string_view>

#include "swiftprune/backend/backend.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

struct DampedInverse {
  Matrix inverse;        // [I, I], both halves, finite
  double damping = 0.0;  // in use, relative to the mean of the diagonal
  int raised = 0;        // how often it was raised tenfold
};

// gram [I, I], both halves, finite; damping > 0.
DampedInverse damped_inverse(ConstMatrixView gram, double damping, const Backend& backend,
                             std::string_view tensor);

// Mean of the diagonal in double; 1 when it is zero, so that a damping relative to it is positive.
double damping_unit(ConstMatrixView gram);

// Throws Error{kBadInput} naming the tensor and the first place that is not finite, or a negative diagonal.
void check_gram(const Matrix* gram, std::int64_t num_inputs, std::string_view tensor);

}  // namespace swiftprune
