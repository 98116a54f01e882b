// The inverse Cholesky factor of a damped Gram matrix on the device, as backend/damped_inverse.h damps it.
#pragma once

#include <string_view>

#include "swiftprune/cuda/statistics/calibration.h"

namespace swiftprune::cuda {

class DampedFactor {
 public:
  DampedFactor(DeviceMemory& memory, std::int64_t max_inputs, cudaStream_t stream);

  // W [I, I] with (G + damping·mean diagonal·I)⁻¹ = WᵀW, lower triangular; `upper`: instead U, upper
  // triangular, with (...)⁻¹ = UᵀU. dead_inputs: inputs without energy get the mean as their diagonal.
  // The Gram matrix stays. Waits for the device. Throws Error{kBadInput} when no damping helps.
  void compute(Products& products, const DeviceStats& stats, double damping, bool upper, bool dead_inputs,
               std::string_view tensor);
  float* data() const { return factor_.as<float>(); }
  double damping() const { return damping_; }
  int raised() const { return raised_; }

 private:
  cudaStream_t stream_;
  DeviceBuffer factor_, scratch_, bad_;
  double damping_ = 0.0;
  int raised_ = 0;
};

// Mean of the Gram matrix's diagonal; 1 when it is zero.
double damping_unit(const DeviceStats& stats);

}  // namespace swiftprune::cuda
