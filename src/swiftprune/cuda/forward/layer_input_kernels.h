// The arithmetic of layer_inputs.h between its products.
#pragma once

#include <cstdint>

#include "swiftprune/cuda/forward/block_kernels.h"

namespace swiftprune::cuda {

// y [n] = (x + scale·table)/√2
struct TokenTableArgs {
  const float* x = nullptr;
  const void* table = nullptr;
  DType table_dtype = DType::kF32;
  void* y = nullptr;
  DType y_dtype = DType::kF32;
  float scale = 1.0f;
  std::int64_t n = 0;
};
void average_with_table(const TokenTableArgs& args, cudaStream_t stream);
// gate [rows, size] = act(gate)·tokens[id], in place; ids [rows] F32, `id_stride` elements apart.
struct TokenGateArgs {
  void* gate = nullptr;
  const void* tokens = nullptr;
  DType dtype = DType::kF32;  // of both
  const float* ids = nullptr;
  std::int64_t id_stride = 0;
  std::int64_t rows = 0;
  std::int64_t size = 0;
};
void gate_by_tokens(ActivationKind kind, const TokenGateArgs& args, cudaStream_t stream);

}  // namespace swiftprune::cuda
