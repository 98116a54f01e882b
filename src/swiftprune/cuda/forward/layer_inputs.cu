#include "swiftprune/cuda/forward/layer_input_kernels.h"

#include "swiftprune/cuda/forward/activations.cuh"
#include "swiftprune/cuda/runtime/device_math.cuh"
#include "swiftprune/cuda/runtime/early_launch.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 256;

template <class T, class Y>
__global__ __launch_bounds__(kThreads) void average_kernel(const float* x, const T* table, float scale,
                                                           std::int64_t n, Y* y) {
  constexpr float kHalfRoot = 0.70710678118654752f;
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) y[i] = from_float<Y>((x[i] + scale * to_float(table[i])) * kHalfRoot);
}

template <class T, ActivationKind kKind>
__global__ __launch_bounds__(kThreads) void token_gate_kernel(T* gate, const T* tokens, const float* ids,
                                                              std::int64_t id_stride, std::int64_t rows,
                                                              std::int64_t size) {
  start_early();
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= rows * size) return;
  const auto id = static_cast<std::int64_t>(ids[index / size * id_stride]);
  const float value = activated<kKind>(to_float(gate[index]));
  gate[index] = from_float<T>(value * to_float(tokens[id * size + index % size]));
}

}  // namespace

void average_with_table(const TokenTableArgs& args, cudaStream_t stream) {
  if (args.n == 0) return;
  with_type(args.table_dtype, [&](auto zero) {
    using T = decltype(zero);
    with_type(args.y_dtype, [&](auto y_zero) {
      using Y = decltype(y_zero);
      average_kernel<<<blocks_for(args.n, kThreads), kThreads, 0, stream>>>(
          args.x, static_cast<const T*>(args.table), args.scale, args.n, static_cast<Y*>(args.y));
    });
  });
  check_launch("average_with_table");
}

void gate_by_tokens(ActivationKind kind, const TokenGateArgs& args, cudaStream_t stream) {
  const std::int64_t n = args.rows * args.size;
  if (n == 0) return;
  with_type(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_activation(kind, [&](auto activation) {
      launch_early(token_gate_kernel<T, activation.value>, blocks_for(n, kThreads), kThreads, 0, stream,
                   static_cast<T*>(args.gate), static_cast<const T*>(args.tokens), args.ids, args.id_stride,
                   args.rows, args.size);
    });
  });
  check_launch("gate_by_tokens");
}

}  // namespace swiftprune::cuda
