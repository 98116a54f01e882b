// (A + (shift + damping·unit)·I)⁻¹ of a Gram matrix. A Gram of fewer tokens than inputs has no inverse by
// itself; where rounding still makes it indefinite the damping is raised tenfold until the inverse exists.
#pragma once

#include <string_view>

#include "swiftprune/backend/backend.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

inline constexpr int kMaxDampingRaises = 12;

struct Damping {
  double relative = 0.01;  // > 0
  double unit = 1.0;       // what it is relative to: damping_unit(a), or 1 for a normalised matrix
  double shift = 0.0;      // added to the diagonal as it is
};

struct DampedInverse {
  Matrix inverse;        // [I, I], both halves, finite
  double damping = 0.0;  // the relative damping in use
  int raised = 0;        // how often it was raised tenfold
};

// a [I, I], both halves, finite.
DampedInverse damped_inverse(ConstMatrixView a, const Damping& damping, const Backend& backend,
                             std::string_view tensor);

// Mean of the diagonal in double; 1 when it is zero, so that a damping relative to it is positive.
double damping_unit(ConstMatrixView a);

// Throws Error{kBadInput} naming the tensor and the first place that is not finite, or a negative diagonal.
void check_gram(const Matrix* gram, std::int64_t num_inputs, std::string_view tensor);

}  // namespace swiftprune
