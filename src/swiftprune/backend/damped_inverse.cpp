#include "swiftprune/backend/damped_inverse.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

bool all_finite(const Matrix& m) {
  return std::all_of(m.values().begin(), m.values().end(), [](float x) { return std::isfinite(x); });
}

}  // namespace

double damping_unit(ConstMatrixView a) {
  double sum = 0.0;
  for (std::int64_t j = 0; j < a.rows; ++j) sum += double{a.at(j, j)};
  return sum > 0.0 ? sum / static_cast<double>(a.rows) : 1.0;
}

DampedInverse damped_inverse(ConstMatrixView a, const Damping& damping, const Backend& backend,
                             std::string_view tensor) {
  expect(damping.relative > 0.0 && damping.unit > 0.0, "damped_inverse: a positive damping");
  DampedInverse result;
  result.damping = damping.relative;
  for (; result.raised <= kMaxDampingRaises; ++result.raised, result.damping *= 10.0) {
    result.inverse = copy_of(a);
    for (std::int64_t j = 0; j < a.rows; ++j) {
      float& diagonal = result.inverse.at(j, j);
      diagonal = static_cast<float>(double{diagonal} + damping.shift + result.damping * damping.unit);
    }
    if (backend.invert_spd(result.inverse.view()) && all_finite(result.inverse)) return result;
  }
  bad_input(
      "{}: found a Gram matrix that no damping up to {:g} of its mean diagonal makes positive definite; "
      "check the calibration data",
      tensor, result.damping / 10.0);
}

void check_gram(const Matrix* gram, std::int64_t num_inputs, std::string_view tensor) {
  expect(gram != nullptr, "check_gram: the Gram matrix was collected");
  expect(gram->rows() == num_inputs && gram->cols() == num_inputs, "check_gram: gram [I, I]");
  for (std::int64_t i = 0; i < gram->rows(); ++i) {
    for (std::int64_t j = 0; j < gram->cols(); ++j) {
      const float value = gram->at(i, j);
      if (std::isfinite(value) && (i != j || value >= 0.0f)) continue;
      bad_input("{}: Gram matrix of the calibration inputs: found {} at inputs {} and {}, expected {}",
                tensor, value, i, j, i == j ? "a sum of squares" : "a finite number");
    }
  }
}

}  // namespace swiftprune
