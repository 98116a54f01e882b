// The activations of MLPs, for the kernels that apply them.
#pragma once

#include <type_traits>

#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {

template <ActivationKind kKind>
__device__ __forceinline__ float activated(float x) {
  if constexpr (kKind == ActivationKind::kSilu) return x / (1.0f + __expf(-x));
  if constexpr (kKind == ActivationKind::kGelu) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
  if constexpr (kKind == ActivationKind::kGeluTanh) {
    return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
  }
  if constexpr (kKind == ActivationKind::kReluSquared) return fmaxf(x, 0.0f) * fmaxf(x, 0.0f);
  if constexpr (kKind == ActivationKind::kQuickGelu) return x / (1.0f + __expf(-1.702f * x));
  if constexpr (kKind == ActivationKind::kClippedGelu) {
    return fminf(fmaxf(activated<ActivationKind::kGelu>(x), -10.0f), 10.0f);
  }
  if constexpr (kKind == ActivationKind::kMish) {
    return x * tanhf(fmaxf(x, 0.0f) + log1pf(__expf(-fabsf(x))));
  }
  return fmaxf(x, 0.0f);
}

__device__ __forceinline__ float clamped_gate(const ClampedGate& c, float gate, float up) {
  gate = fminf(gate, c.limit);
  up = fminf(fmaxf(up, -c.limit), c.limit);
  return gate / (1.0f + expf(-c.alpha * gate)) * (up + 1.0f);
}

// Calls body(integral_constant of the kind).
template <class Body>
void with_activation(ActivationKind kind, const Body& body) {
  using enum ActivationKind;
  switch (kind) {
    case kSilu:
      return body(std::integral_constant<ActivationKind, kSilu>{});
    case kGelu:
      return body(std::integral_constant<ActivationKind, kGelu>{});
    case kGeluTanh:
      return body(std::integral_constant<ActivationKind, kGeluTanh>{});
    case kRelu:
      return body(std::integral_constant<ActivationKind, kRelu>{});
    case kReluSquared:
      return body(std::integral_constant<ActivationKind, kReluSquared>{});
    case kQuickGelu:
      return body(std::integral_constant<ActivationKind, kQuickGelu>{});
    case kClippedGelu:
      return body(std::integral_constant<ActivationKind, kClippedGelu>{});
    case kMish:
      return body(std::integral_constant<ActivationKind, kMish>{});
  }
}

}  // namespace swiftprune::cuda
