#include "swiftprune/refinement/inverse_factor.h"

#include <utility>

#include "swiftprune/refinement/cholesky.h"

namespace swiftprune {

DampedFactor damped_factor(ConstMatrixView a, Damping damping, const Backend& backend,
                           std::string_view tensor) {
  DampedFactor result;
  // The inverse may exist in floats while its factor does not.
  for (;; damping.relative *= 10.0) {
    DampedInverse inverse = damped_inverse(a, damping, backend, tensor);
    result.damping_raised += inverse.raised;
    result.damping = damping.relative = inverse.damping;
    result.factor = std::move(inverse.inverse);
    if (cholesky(result.factor.view(), backend)) return result;
    ++result.damping_raised;
  }
}

InverseFactor inverse_factor(const Matrix& gram, double damping, const Backend& backend,
                             std::string_view tensor) {
  InverseFactor result;
  Matrix hessian = gram.clone();
  result.unit = damping_unit(hessian.view());
  for (std::int64_t j = 0; j < hessian.rows(); ++j) {
    result.dead.push_back(hessian.at(j, j) == 0.0f);
    if (result.dead.back()) hessian.at(j, j) = static_cast<float>(result.unit);
  }
  DampedFactor found =
      damped_factor(hessian.view(), {.relative = damping, .unit = result.unit}, backend, tensor);
  result.factor = std::move(found.factor);
  result.damping = found.damping;
  result.damping_raised = found.damping_raised;
  return result;
}

}  // namespace swiftprune
