// Experts of a few tokens without a word from the host, so that a step can be recorded: which ones a token uses, and
// their products, each weight read where it lies. And the rows of many tokens, one expert at a time.
#include <algorithm>
#include <limits>

#include "swiftprune/cuda/forward/activations.cuh"
#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kRouteThreads = 128;
constexpr int kRouteWarps = kRouteThreads / kWarp;

// The highest of the warp's values, the lowest index of equal ones; in all lanes.
struct Best {
  float value = -INFINITY;
  int index = std::numeric_limits<int>::max();
};
__device__ __forceinline__ bool is_better(float value, int index, const Best& than) {
  return value > than.value || (value == than.value && index < than.index);
}
__device__ __forceinline__ Best warp_best(Best best) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const float value = __shfl_xor_sync(kFullWarp, best.value, offset);
    const int index = __shfl_xor_sync(kFullWarp, best.index, offset);
    if (is_better(value, index, best)) best = {value, index};
  }
  return best;
}

// Only experts of the best groups keep their rank. ranks [experts], of_groups [num_groups]: of this warp.
__device__ void keep_groups(const RouteArgs& args, int lane, float* ranks, float* of_groups) {
  const int size = args.num_experts / args.num_groups;
  for (int g = lane; g < args.num_groups; g += kWarp) {
    float best = -INFINITY, second = -INFINITY;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      second = fmaxf(second, fminf(best, ranks[e]));
      best = fmaxf(best, ranks[e]);
    }
    of_groups[g] = args.best_two ? best + second : best;
  }
  __syncwarp();
  constexpr float kChosen = INFINITY;
  for (int i = 0; i < args.top_groups; ++i) {
    Best best;
    for (int g = lane; g < args.num_groups; g += kWarp) {
      if (of_groups[g] != kChosen && is_better(of_groups[g], g, best)) best = {of_groups[g], g};
    }
    best = warp_best(best);
    if (lane == 0) of_groups[best.index] = kChosen;
    __syncwarp();
  }
  for (int e = lane; e < args.num_experts; e += kWarp) {
    if (of_groups[e / size] != kChosen) ranks[e] = -INFINITY;
  }
  __syncwarp();
}

// A warp a token, as Router::scores(), choose() and weigh() of model/router.h.
__global__ __launch_bounds__(kRouteThreads) void route_kernel(RouteArgs args) {
  extern __shared__ float shared[];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t row = std::int64_t{blockIdx.x} * kRouteWarps + warp;
  if (row >= args.rows) return;
  float* scores = shared + warp * (2 * args.num_experts + args.num_groups);
  float* ranks = scores + args.num_experts;
  const float* logits = args.logits + row * args.num_experts;
  float top = -INFINITY;
  for (int e = lane; e < args.num_experts; e += kWarp) {
    scores[e] = logits[e] + (args.bias != nullptr ? args.bias[e] : 0.0f);
    top = fmaxf(top, scores[e]);
  }
  top = warp_max(top);
  double total = 0.0;
  for (int e = lane; e < args.num_experts; e += kWarp) {
    scores[e] = args.sigmoid ? 1.0f / (1.0f + expf(-scores[e])) : expf(scores[e] - top);
    total += static_cast<double>(scores[e]);
  }
  total = warp_sum(total);
  for (int e = lane; e < args.num_experts; e += kWarp) {
    if (!args.sigmoid) scores[e] = static_cast<float>(static_cast<double>(scores[e]) / total);
    ranks[e] = scores[e] + (args.correction != nullptr ? args.correction[e] : 0.0f);
  }
  __syncwarp();
  if (args.top_groups < args.num_groups) keep_groups(args, lane, ranks, ranks + args.num_experts);
  std::int32_t* chosen = args.chosen + row * args.top_k;
  double sum = 0.0;
  for (int k = 0; k < args.top_k; ++k) {
    Best best;
    for (int e = lane; e < args.num_experts; e += kWarp) {
      if (is_better(ranks[e], e, best)) best = {ranks[e], e};
    }
    best = warp_best(best);
    // Of numbers that are none no one is the highest; the index then must still be an expert's.
    const int expert = best.index < args.num_experts ? best.index : k;
    sum += static_cast<double>(scores[expert]);
    __syncwarp();
    if (lane == 0) {
      chosen[k] = expert;
      ranks[expert] = -INFINITY;
    }
    __syncwarp();
  }
  const double divisor = args.renormalised ? fmax(sum, 1e-20) : 1.0;
  for (int k = lane; k < args.top_k; k += kWarp) {
    args.gates[row * args.top_k + k] = static_cast<float>(static_cast<double>(scores[chosen[k]]) / divisor *
                                                          static_cast<double>(args.scale));
  }
}

// Σ_j a_j·b_j of this lane's part.
template <class T, int kSpan>
__device__ __forceinline__ float lane_dot(const T* a, const T* b, std::int64_t n, int lane) {
  float sum = 0.0f;
  if constexpr (kSpan == 8) {
    for (std::int64_t j = lane * 8; j < n; j += kWarp * 8) {
      const Eight<T> x = load_eight(a + j), y = load_eight(b + j);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum = fmaf(to_float(x.v[i]), to_float(y.v[i]), sum);
    }
  } else {
    for (std::int64_t j = lane; j < n; j += kWarp) sum = fmaf(to_float(a[j]), to_float(b[j]), sum);
  }
  return sum;
}

template <class T>
__global__ __launch_bounds__(kThreads) void clamped_kernel(ClampedGate clamped, const T* x, std::int64_t rows,
                                                           std::int64_t cols, T* y) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= rows * cols) return;
  const T* gate = x + 2 * (i / cols) * cols + i % cols;
  y[i] = from_float<T>(clamped_gate(clamped, to_float(*gate), to_float(gate[cols])));
}

// A warp an inner channel of a token's expert.
template <class T, ActivationKind kKind, int kSpan>
__global__ __launch_bounds__(kThreads) void expert_up_kernel(FewExpertsArgs args, const T* x,
                                                             const T* gate_up, T* inner) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t i = std::int64_t{blockIdx.x} * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  if (i >= args.width) return;
  const std::int64_t pair = blockIdx.y;
  const std::int64_t first = std::int64_t{args.chosen[pair]} * (args.gated ? 2 : 1) * args.width + i;
  const T* weights = gate_up + first * args.hidden;
  const T* token = x + pair / args.top_k * args.hidden;
  float gate = warp_sum(lane_dot<T, kSpan>(weights, token, args.hidden, lane));
  float up = 1.0f;
  if (args.gated)
    up = warp_sum(lane_dot<T, kSpan>(weights + args.width * args.hidden, token, args.hidden, lane));
  if (lane != 0) return;
  if (args.up_bias != nullptr) {
    const T* bias = static_cast<const T*>(args.up_bias) + first;
    gate += to_float(*bias);
    if (args.gated) up += to_float(bias[args.width]);
  }
  const float value =
      args.clamped.limit > 0.0f ? clamped_gate(args.clamped, gate, up) : activated<kKind>(gate) * up;
  inner[pair * args.width + i] = from_float<T>(value);
}

// A warp an output of a token.
template <class T, int kSpan>
__global__ __launch_bounds__(kThreads) void expert_down_kernel(FewExpertsArgs args, const T* inner,
                                                               const T* down, float* y) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t o = std::int64_t{blockIdx.x} * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  if (o >= args.hidden) return;
  const std::int64_t row = blockIdx.y;
  float sum = 0.0f;
  float biases = 0.0f;
  for (int k = 0; k < args.top_k; ++k) {
    const std::int64_t pair = row * args.top_k + k;
    if (args.down_bias != nullptr)
      biases += args.gates[pair] * args.down_bias[std::int64_t{args.chosen[pair]} * args.hidden + o];
    const T* weights = down + (std::int64_t{args.chosen[pair]} * args.hidden + o) * args.width;
    sum += args.gates[pair] * lane_dot<T, kSpan>(weights, inner + pair * args.width, args.width, lane);
  }
  sum = warp_sum(sum);
  if (lane == 0) y[row * args.hidden + o] += sum + biases;
}

__global__ __launch_bounds__(kThreads) void add_rows_kernel(const float* values, const std::int32_t* rows,
                                                            const float* gates, std::int64_t cols, float* y) {
  const std::int64_t i = blockIdx.x;
  float* target = y + std::int64_t{rows[i]} * cols;
  const float gate = gates[i];
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) target[j] += gate * values[i * cols + j];
}

template <class T>
__global__ __launch_bounds__(kThreads) void gate_rows_kernel(const T* x, const float* gate, std::int64_t cols,
                                                             std::int64_t inner_cols, T* inner) {
  __shared__ float scratch[kWarp + 1];
  const std::int64_t r = blockIdx.x;
  float logit = 0.0f;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) logit += to_float(x[r * cols + j]) * gate[j];
  const float factor = 1.0f / (1.0f + expf(-block_sum(logit, scratch)));
  for (std::int64_t j = threadIdx.x; j < inner_cols; j += kThreads) {
    T& value = inner[r * inner_cols + j];
    value = from_float<T>(to_float(value) * factor);
  }
}

// Calls body(T{}, span) for vectors of eight where every row begins at one.
template <class Body>
void with_span(DType dtype, bool even, const Body& body) {
  with_type(dtype, [&](auto type) {
    if (even) {
      body(type, std::integral_constant<int, 8>{});
    } else {
      body(type, std::integral_constant<int, 1>{});
    }
  });
}

dim3 warps_for(std::int64_t outputs, std::int64_t rows) {
  return {static_cast<unsigned>((outputs + kWarps - 1) / kWarps), static_cast<unsigned>(rows)};
}

}  // namespace

void route(const RouteArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  const std::size_t bytes =
      kRouteWarps * static_cast<std::size_t>(2 * args.num_experts + args.num_groups) * sizeof(float);
  cudaFuncSetAttribute(route_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  const auto blocks = static_cast<unsigned>((args.rows + kRouteWarps - 1) / kRouteWarps);
  route_kernel<<<blocks, kRouteThreads, bytes, stream>>>(args);
  check_launch("route");
}

void clamped_activate(const ClampedGate& clamped, const void* x, std::int64_t rows, std::int64_t cols,
                      void* y, DType dtype, cudaStream_t stream) {
  if (rows * cols == 0) return;
  const auto blocks = blocks_for(rows * cols, kThreads);
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    clamped_kernel<T>
        <<<blocks, kThreads, 0, stream>>>(clamped, static_cast<const T*>(x), rows, cols, static_cast<T*>(y));
  });
  check_launch("clamped_activate");
}

void experts_up(const FewExpertsArgs& args, ActivationKind kind, const void* x, const void* gate_up,
                void* inner, cudaStream_t stream) {
  if (args.rows == 0) return;
  const bool even = args.hidden % 8 == 0 && is_aligned(x) && is_aligned(gate_up);
  with_span(args.dtype, even, [&](auto type, auto span) {
    using T = decltype(type);
    with_activation(kind, [&](auto activation) {
      expert_up_kernel<T, activation.value, span.value>
          <<<warps_for(args.width, args.rows * args.top_k), kThreads, 0, stream>>>(
              args, static_cast<const T*>(x), static_cast<const T*>(gate_up), static_cast<T*>(inner));
    });
  });
  check_launch("experts_up");
}

void experts_down(const FewExpertsArgs& args, const void* inner, const void* down, float* y,
                  cudaStream_t stream) {
  if (args.rows == 0) return;
  const bool even = args.width % 8 == 0 && is_aligned(inner) && is_aligned(down);
  with_span(args.dtype, even, [&](auto type, auto span) {
    using T = decltype(type);
    expert_down_kernel<T, span.value><<<warps_for(args.hidden, args.rows), kThreads, 0, stream>>>(
        args, static_cast<const T*>(inner), static_cast<const T*>(down), y);
  });
  check_launch("experts_down");
}

void add_gated_rows(const float* values, const std::int32_t* rows, const float* gates, std::int64_t n,
                    std::int64_t cols, float* y, cudaStream_t stream) {
  if (n == 0) return;
  add_rows_kernel<<<static_cast<unsigned>(n), kThreads, 0, stream>>>(values, rows, gates, cols, y);
  check_launch("add_gated_rows");
}

void gate_rows(const void* x, DType dtype, const float* gate, std::int64_t rows, std::int64_t cols,
               std::int64_t inner_cols, void* inner, cudaStream_t stream) {
  if (rows == 0) return;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    gate_rows_kernel<T><<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(
        static_cast<const T*>(x), gate, cols, inner_cols, static_cast<T*>(inner));
  });
  check_launch("gate_rows");
}

}  // namespace swiftprune::cuda
