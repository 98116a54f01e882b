#include "swiftprune/structure/expert_bias.h"

#include <cmath>
#include <utility>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"

namespace swiftprune {

Matrix gate_moments(const Routing& routing, std::span<const double> weights, std::int64_t members) {
  std::vector<double> sums(at(members * members));
  for (std::int64_t t = 0; t < routing.num_tokens(); ++t) {
    const auto experts = routing.experts_of(t);
    const auto gates = routing.gates_of(t);
    for (std::size_t i = 0; i < experts.size(); ++i) {
      for (std::size_t k = 0; k < experts.size(); ++k) {
        if (experts[i] < 0 || experts[k] < 0) continue;
        sums[at(experts[i] * members + experts[k])] += weights[at(t)] * double{gates[i]} * double{gates[k]};
      }
    }
  }
  Matrix result(members, members);
  for (std::size_t i = 0; i < sums.size(); ++i) result.values()[i] = static_cast<float>(sums[i]);
  return result;
}

// With n_j = √A_jj: B = (A/(n nᵀ) + damping·I)⁻¹ (L/n) / n.
Matrix fit_expert_biases(Matrix gates, Matrix lacking, double damping) {
  const std::int64_t members = gates.rows();
  expect(gates.cols() == members && lacking.rows() == members, "fit_expert_biases: a row for each member");
  std::vector<double> scale(at(members), 0.0);
  for (std::int64_t j = 0; j < members; ++j) {
    if (gates.at(j, j) > 0.0f) scale[at(j)] = 1.0 / std::sqrt(double{gates.at(j, j)});
  }
  const auto scale_rows = [&](Matrix& m) {
    for (std::int64_t j = 0; j < members; ++j) {
      for (float& value : m.view().row_span(j)) value = static_cast<float>(double{value} * scale[at(j)]);
    }
  };
  scale_rows(gates);
  for (std::int64_t r = 0; r < members; ++r) {
    for (std::int64_t c = 0; c < members; ++c)
      gates.at(r, c) = static_cast<float>(double{gates.at(r, c)} * scale[at(c)]);
  }
  scale_rows(lacking);
  const auto backend = make_cpu_backend();
  const DampedInverse inverse = damped_inverse(
      std::as_const(gates).view(), {.relative = damping, .unit = 1.0, .shift = 0.0}, *backend, "experts");
  Matrix result(members, lacking.cols());
  backend->matmul(inverse.inverse.view(), std::as_const(lacking).view(), 1.0f, 0.0f, result.view());
  scale_rows(result);
  return result;
}

}  // namespace swiftprune
