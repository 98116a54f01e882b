// Launchers of experts (experts.cu), as runtime/launch.h has them.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune::cuda {

// Which experts rows use, and with which weights, as model/router.h has it. Ties go to the lower index.
struct RouteArgs {
  const float* logits = nullptr;      // [rows, num_experts], without bias
  const float* bias = nullptr;        // [num_experts] or null
  const float* correction = nullptr;  // [num_experts] or null
  std::int64_t rows = 0;
  int num_experts = 0;
  bool sigmoid = false;  // else softmax
  int top_k = 1;
  int num_groups = 1;  // only experts of the best top_groups can be chosen
  int top_groups = 1;
  bool best_two = true;  // what ranks a group: the sum of its best two, else its best
  bool renormalised = false;
  float scale = 1.0f;
  std::int32_t* chosen = nullptr;  // [rows, top_k] by falling rank
  float* gates = nullptr;          // [rows, top_k]
};
void route(const RouteArgs& args, cudaStream_t stream);

// gate·sigmoid(alpha·gate)·(up + 1), gate at most `limit` and up within ±limit; in place of an activation where limit
// is positive.
struct ClampedGate {
  float alpha = 0.0f;
  float limit = 0.0f;
};
// x [rows, 2·cols] -> y [rows, cols] = of the first and the second half
void clamped_activate(const ClampedGate& clamped, const void* x, std::int64_t rows, std::int64_t cols,
                      void* y, DType dtype, cudaStream_t stream);

// The products of a few rows with the experts that they chose. dtype: of x, weights and inner values.
struct FewExpertsArgs {
  DType dtype = DType::kBF16;
  std::int64_t rows = 0;
  std::int64_t hidden = 0;
  std::int64_t width = 0;
  int top_k = 1;
  const std::int32_t* chosen = nullptr;  // [rows, top_k]
  const float* gates = nullptr;          // [rows, top_k], of experts_down() alone
  const void* up_bias = nullptr;         // [E, 2·width] of dtype ([E, width] without gates), or null
  const float* down_bias = nullptr;      // [E, hidden] or null
  ClampedGate clamped = {};
  bool gated = true;
};
// x [rows, hidden], gate_up [E, 2·width, hidden] (gate first; without gates [E, width, hidden]) -> inner [rows·top_k,
// width]
void experts_up(const FewExpertsArgs& args, ActivationKind kind, const void* x, const void* gate_up,
                void* inner, cudaStream_t stream);
// y [rows, hidden] += Σ_k gate·down, down [E, hidden, width]
void experts_down(const FewExpertsArgs& args, const void* inner, const void* down, float* y,
                  cudaStream_t stream);
// y [., cols] at `rows` (each once) += gate_i·values_i, values [n, cols]
void add_gated_rows(const float* values, const std::int32_t* rows, const float* gates, std::int64_t n,
                    std::int64_t cols, float* y, cudaStream_t stream);
// inner [rows, inner_cols], in place: each row times sigmoid(x·gate), x [rows, cols]
void gate_rows(const void* x, DType dtype, const float* gate, std::int64_t rows, std::int64_t cols,
               std::int64_t inner_cols, void* inner, cudaStream_t stream);

}  // namespace swiftprune::cuda
