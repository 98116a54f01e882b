#include "swiftprune/cuda/refinement/damped_factor.h"

#include <numeric>

#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/cuda/refinement/inverse.h"
#include "swiftprune/cuda/refinement/refinement_kernels.h"

namespace swiftprune::cuda {
namespace {

std::uint64_t floats(std::int64_t n) { return static_cast<std::uint64_t>(n) * sizeof(float); }

}  // namespace

double damping_unit(const DeviceStats& stats) {
  const std::span<const double> energy = stats.view().energy;
  const double sum = std::accumulate(energy.begin(), energy.end(), 0.0);
  return sum > 0.0 ? sum / static_cast<double>(energy.size()) : 1.0;
}

DampedFactor::DampedFactor(DeviceMemory& memory, std::int64_t max_inputs, cudaStream_t stream)
    : stream_(stream),
      factor_(memory, floats(max_inputs * max_inputs), "the inverse Gram matrix"),
      scratch_(memory, floats(inverse_scratch(max_inputs)), "the inverse Gram matrix"),
      bad_(memory, sizeof(int), "the inverse Gram matrix") {}

void DampedFactor::compute(Products& products, const DeviceStats& stats, double damping, bool upper,
                           bool dead_inputs, std::string_view tensor) {
  expect(stats.gram() != nullptr, "DampedFactor: a Gram matrix");
  const std::int64_t n = stats.inputs();
  const double unit = damping_unit(stats);
  damping_ = damping;
  for (raised_ = 0; raised_ <= kMaxDampingRaises; ++raised_, damping_ *= 10.0) {
    check(cudaMemcpyAsync(data(), stats.gram(), floats(n * n), cudaMemcpyDeviceToDevice, stream_));
    if (upper) reverse(data(), n, stream_);
    damp_diagonal(data(), n, static_cast<float>(damping_ * unit),
                  dead_inputs ? static_cast<float>(unit) : 0.0f, stream_);
    if (!try_inverse_factor(products, view_of(data(), DType::kF32, n, n), scratch_.as<float>(),
                            bad_.as<int>(), false, stream_))
      continue;
    // (J A J)⁻¹ = WᵀW with J the reversal gives A⁻¹ = (J W J)ᵀ(J W J), and J W J is upper triangular.
    if (upper) reverse(data(), n, stream_);
    return;
  }
  bad_input(
      "{}: found a Gram matrix that no damping up to {:g} of its mean diagonal makes positive definite; "
      "check the calibration data",
      tensor, damping_ / 10.0);
}

}  // namespace swiftprune::cuda
