// The block's arithmetic between its products: norms, heads (norm and rotary embedding), activations, losses.
#include <algorithm>

#include "swiftprune/cuda/forward/activations.cuh"
#include "swiftprune/cuda/forward/xielu.h"
#include "swiftprune/cuda/runtime/device_math.cuh"
#include "swiftprune/cuda/runtime/early_launch.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 256;

template <class Y, bool kAdd>
__global__ __launch_bounds__(kThreads) void norm_kernel(NormArgs args, Y* y, std::int64_t y_stride,
                                                        float factor_added) {
  start_early();
  __shared__ float scratch[kWarp + 1];
  const std::int64_t r = blockIdx.x;
  const float* x = args.x + r * args.stride;
  const auto size = static_cast<float>(args.cols);
  float mean = 0.0f;
  if (args.layer) {
    for (std::int64_t j = threadIdx.x; j < args.cols; j += kThreads) mean += x[j];
    mean = block_sum(mean, scratch) / size;
  }
  float squares = 0.0f;
  for (std::int64_t j = threadIdx.x; j < args.cols; j += kThreads) squares += (x[j] - mean) * (x[j] - mean);
  const float factor = rsqrtf(block_sum(squares, scratch) / size + args.eps);
  for (std::int64_t j = threadIdx.x; j < args.cols; j += kThreads) {
    float value = (x[j] - mean) * factor;
    if (args.gain != nullptr) value *= args.gain[j] + args.gain_offset;
    if (args.bias != nullptr) value += args.bias[j];
    Y& target = y[r * y_stride + j];
    target = kAdd ? from_float<Y>(to_float(target) + factor_added * value) : from_float<Y>(value);
  }
}

// Whole rows in place, whose elements are read again after the sums.
template <class T>
__global__ __launch_bounds__(kThreads) void norm_rows_kernel(NormArgs args, T* data, std::int64_t stride) {
  start_early();
  __shared__ float scratch[kWarp + 1];
  T* x = data + std::int64_t{blockIdx.x} * stride;
  const auto size = static_cast<float>(args.cols);
  float mean = 0.0f;
  if (args.layer) {
    for (std::int64_t j = threadIdx.x; j < args.cols; j += kThreads) mean += to_float(x[j]);
    mean = block_sum(mean, scratch) / size;
  }
  float squares = 0.0f;
  for (std::int64_t j = threadIdx.x; j < args.cols; j += kThreads) {
    const float value = to_float(x[j]) - mean;
    squares += value * value;
  }
  const float factor = rsqrtf(block_sum(squares, scratch) / size + args.eps);
  for (std::int64_t j = threadIdx.x; j < args.cols; j += kThreads) {
    float value = (to_float(x[j]) - mean) * factor;
    if (args.gain != nullptr) value *= args.gain[j] + args.gain_offset;
    if (args.bias != nullptr) value += args.bias[j];
    x[j] = from_float<T>(value);
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void clip_rows_kernel(T* data, std::int64_t cols, std::int64_t stride,
                                                             float limit) {
  start_early();
  T* x = data + std::int64_t{blockIdx.x} * stride;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads)
    x[j] = from_float<T>(fminf(fmaxf(to_float(x[j]), -limit), limit));
}

// RMSNorm of rows that fit in registers: each thread keeps up to kQuads float4.
constexpr int kQuads = 8;
template <class Y>
__global__ __launch_bounds__(kThreads) void rms_norm_kernel(NormArgs args, Y* y) {
  start_early();
  __shared__ float scratch[kWarp + 1];
  const std::int64_t r = blockIdx.x;
  const auto* x = reinterpret_cast<const float4*>(args.x + r * args.cols);
  const auto* gain = reinterpret_cast<const float4*>(args.gain);
  const int quads = static_cast<int>(args.cols / 4);
  float4 v[kQuads];
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    const int j = i * kThreads + static_cast<int>(threadIdx.x);
    v[i] = j < quads ? x[j] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    squares += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
  }
  const float factor = rsqrtf(block_sum(squares, scratch) / static_cast<float>(args.cols) + args.eps);
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    const int j = i * kThreads + static_cast<int>(threadIdx.x);
    if (j >= quads) continue;
    const float4 g = gain[j];
    struct alignas(sizeof(Y) * 4) Quad {
      Y v[4];
    } out;
    out.v[0] = from_float<Y>(v[i].x * factor * (g.x + args.gain_offset));
    out.v[1] = from_float<Y>(v[i].y * factor * (g.y + args.gain_offset));
    out.v[2] = from_float<Y>(v[i].z * factor * (g.z + args.gain_offset));
    out.v[3] = from_float<Y>(v[i].w * factor * (g.w + args.gain_offset));
    reinterpret_cast<Quad*>(y + r * args.cols)[j] = out;
  }
}

__device__ __forceinline__ std::int64_t position_of(const HeadsArgs& args, std::int64_t row) {
  const std::int64_t first = args.positions != nullptr ? args.positions[row / args.sequence_length] : 0;
  return first + row % args.sequence_length;
}

// A warp a head of a row. Pairs are rotated; the rest is only normed and scaled.
template <class T>
__global__ __launch_bounds__(kThreads) void heads_kernel(HeadsArgs args) {
  start_early();
  const std::int64_t index = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (index >= args.rows * args.num_heads) return;
  const std::int64_t r = index / args.num_heads;
  T* x = static_cast<T*>(args.data) + r * args.row_stride + index % args.num_heads * args.head_stride;
  const int size = static_cast<int>(args.head_size);
  const int pairs = args.cos != nullptr ? static_cast<int>(args.pairs) : 0;
  float mean = 0.0f;
  float factor = 1.0f;
  const bool normed = args.normed;
  if (normed) {
    float sum = 0.0f;
    for (int j = lane; j < size; j += kWarp) sum += to_float(x[j]);
    if (args.layer) mean = warp_sum(sum) / static_cast<float>(size);
    float squares = 0.0f;
    for (int j = lane; j < size; j += kWarp) {
      const float value = to_float(x[j]) - mean;
      squares += value * value;
    }
    factor = rsqrtf(warp_sum(squares) / static_cast<float>(size) + args.eps);
    __syncwarp();
  }
  const std::int64_t position = position_of(args, r);
  const bool scaled = args.scale_beta != 0.0f;
  const float scale =
      scaled ? 1.0f + args.scale_beta * log1pf(static_cast<float>(position / args.scale_positions)) : 1.0f;
  const std::int64_t own_gain = index % args.num_heads * args.gain_stride;
  const auto value_of = [&](int j) {
    float value = to_float(x[j]);
    if (!normed) return value * scale;
    value = (value - mean) * factor;
    if (args.gain != nullptr) value *= args.gain[own_gain + j] + args.gain_offset;
    if (args.bias != nullptr) value += args.bias[own_gain + j];
    return value * scale;
  };
  for (int i = lane; i < pairs; i += kWarp) {
    const int first = args.neighbours ? 2 * i : i;
    const int second = args.neighbours ? 2 * i + 1 : i + pairs;
    const float a = value_of(first);
    const float b = value_of(second);
    const float cos = args.cos[position * pairs + i];
    const float sin = args.sin[position * pairs + i];
    x[first] = from_float<T>(a * cos - b * sin);
    x[second] = from_float<T>(b * cos + a * sin);
  }
  if (!normed && !scaled) return;
  for (int j = 2 * pairs + lane; j < size; j += kWarp) x[j] = from_float<T>(value_of(j));
}

// Rotary embedding alone on pairs of neighbours: half as many memory accesses.
template <class T>
__global__ __launch_bounds__(kThreads) void rope_kernel(HeadsArgs args) {
  start_early();
  struct alignas(sizeof(T) * 2) Two {
    T v[2];
  };
  const int half_pairs = static_cast<int>(args.pairs / 2);
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t head_index = index / half_pairs;
  if (head_index >= args.rows * args.num_heads) return;
  const int i = 2 * static_cast<int>(index % half_pairs);
  const std::int64_t r = head_index / args.num_heads;
  T* x = static_cast<T*>(args.data) + r * args.row_stride + head_index % args.num_heads * args.head_stride;
  const std::int64_t at = position_of(args, r) * args.pairs + i;
  const float2 cos = *reinterpret_cast<const float2*>(args.cos + at);
  const float2 sin = *reinterpret_cast<const float2*>(args.sin + at);
  Two low = *reinterpret_cast<Two*>(x + i);
  Two high = *reinterpret_cast<Two*>(x + i + args.pairs);
  const float a[2] = {to_float(low.v[0]), to_float(low.v[1])};
  const float b[2] = {to_float(high.v[0]), to_float(high.v[1])};
  low.v[0] = from_float<T>(a[0] * cos.x - b[0] * sin.x);
  low.v[1] = from_float<T>(a[1] * cos.y - b[1] * sin.y);
  high.v[0] = from_float<T>(b[0] * cos.x + a[0] * sin.x);
  high.v[1] = from_float<T>(b[1] * cos.y + a[1] * sin.y);
  *reinterpret_cast<Two*>(x + i) = low;
  *reinterpret_cast<Two*>(x + i + args.pairs) = high;
}

// A thread an element of a head, or of what pads it.
template <class X, class Y>
__global__ __launch_bounds__(kThreads) void copy_heads_kernel(CopyHeadsArgs args) {
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= args.rows * args.num_heads * args.padded) return;
  const std::int64_t i = index % args.padded;
  const std::int64_t head = index / args.padded % args.num_heads;
  const std::int64_t row = index / args.padded / args.num_heads;
  const X* x = static_cast<const X*>(args.x) + row * args.x_row_stride + head * args.x_head_stride;
  Y* y = static_cast<Y*>(args.y) + row * args.y_row_stride + head * args.y_head_stride;
  y[i] = from_float<Y>(i < args.size ? to_float(x[i]) : 0.0f);
}

template <class T>
__global__ __launch_bounds__(kThreads) void gate_heads_kernel(GateHeadsArgs args) {
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t cols = args.num_heads * args.head_size;
  if (index >= args.rows * cols) return;
  const std::int64_t row = index / cols, c = index % cols;
  const T* gate = static_cast<const T*>(args.gate) + row * args.row_stride +
                  c / args.head_size * args.head_stride + c % args.head_size;
  T& value = static_cast<T*>(args.y)[index];
  value = from_float<T>(to_float(value) / (1.0f + expf(-to_float(*gate))));
}

template <class T>
__global__ __launch_bounds__(kThreads) void scale_rows_kernel(T* x, std::int64_t rows, std::int64_t cols,
                                                              std::int64_t stride, float factor) {
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= rows * cols) return;
  T& value = x[index / cols * stride + index % cols];
  value = from_float<T>(factor * to_float(value));
}

// kSpan elements a thread.
template <class T, ActivationKind kKind, bool kGated, int kSpan>
__global__ __launch_bounds__(kThreads) void activate_kernel(const T* x, std::int64_t rows, std::int64_t cols,
                                                            T* y) {
  start_early();
  const std::int64_t index = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kSpan;
  if (index >= rows * cols) return;
  const std::int64_t r = index / cols;
  const std::int64_t j = index % cols;
  const T* first = x + (kGated ? 2 * r * cols + j : index);
  if constexpr (kSpan == 8) {
    Eight<T> a = load_eight(first);
    Eight<T> b;
    if constexpr (kGated) b = load_eight(first + cols);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float value = activated<kKind>(to_float(a.v[i]));
      if constexpr (kGated) value *= to_float(b.v[i]);
      a.v[i] = from_float<T>(value);
    }
    store_eight(y + index, a);
  } else {
    float value = activated<kKind>(to_float(*first));
    if constexpr (kGated) value *= to_float(first[cols]);
    y[index] = from_float<T>(value);
  }
}

struct XieluCurve {
  float alpha_p, alpha_n, beta, eps;
  explicit XieluCurve(const XieluNumbers& numbers)
      : alpha_p(numbers[0]), alpha_n(numbers[1]), beta(numbers[2]), eps(numbers[3]) {}
  __device__ float operator()(float x) const {
    const float curve = x > 0.0f ? alpha_p * x * x : (alpha_n + beta) * (expm1f(fminf(x, eps)) - x);
    return curve + beta * x;
  }
};

template <class T>
__global__ __launch_bounds__(kThreads) void xielu_kernel(XieluCurve curve, const T* x, std::int64_t n, T* y) {
  start_early();
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) y[i] = from_float<T>(curve(to_float(x[i])));
}

// A thread a column; tokens one after the other.
constexpr int kEffectThreads = 64;
template <ActivationKind kKind>
struct ActivationCurve {
  __device__ float operator()(float x) const { return activated<kKind>(x); }
};

template <class T, class Curve>
__global__ __launch_bounds__(kEffectThreads) void effects_kernel(Curve curve, const T* x, bool gated,
                                                                 std::int64_t tokens, std::int64_t cols,
                                                                 double* gate, double* up) {
  constexpr float kStep = 1e-2f;  // kSlopeStep of pipeline/choices/row_budgets.h
  const std::int64_t j = std::int64_t{blockIdx.x} * kEffectThreads + threadIdx.x;
  if (j >= cols) return;
  double of_gate = 0.0;
  double of_up = 0.0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const T* row = x + t * (gated ? 2 : 1) * cols + j;
    const float g = to_float(*row);
    const float slope = (curve(g + kStep) - curve(g - kStep)) / (2.0f * kStep);
    const auto change = static_cast<double>(gated ? to_float(row[cols]) * slope : slope);
    const auto value = static_cast<double>(curve(g));
    of_gate += change * change;
    of_up += value * value;
  }
  gate[j] = of_gate / static_cast<double>(tokens);
  up[j] = of_up / static_cast<double>(tokens);
}

template <class X, class Y>
__global__ __launch_bounds__(kThreads) void convert_kernel(const X* x, Y* y, std::int64_t n) {
  start_early();
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads;
  const std::int64_t thread = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (std::int64_t i = thread; i < n; i += step) y[i] = from_float<Y>(to_float(x[i]));
}

template <class X>
__global__ __launch_bounds__(kThreads) void add_kernel(const X* x, float* y, std::int64_t n, float factor) {
  start_early();
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads;
  const std::int64_t thread = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (std::int64_t i = thread; i < n; i += step) y[i] += factor * to_float(x[i]);
}

__global__ __launch_bounds__(kThreads) void log_probs_kernel(const float* logits, std::int64_t cols,
                                                             float cap, const std::int32_t* targets,
                                                             double* log_probs) {
  __shared__ float scratch[kWarp + 1];
  __shared__ double scratch_double[kWarp + 1];
  const std::int64_t r = blockIdx.x;
  const float* row = logits + r * cols;
  const auto capped = [&](float x) { return cap > 0.0f ? cap * tanhf(x / cap) : x; };
  float top = -INFINITY;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) top = fmaxf(top, capped(row[j]));
  top = block_max(top, scratch);
  float sum = 0.0f;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) sum += expf(capped(row[j]) - top);
  const double total = block_sum(static_cast<double>(sum), scratch_double);
  if (threadIdx.x == 0) {
    log_probs[r] = static_cast<double>(capped(row[targets[r]])) - static_cast<double>(top) - log(total);
  }
}

template <class T, ActivationKind kKind>
void launch_activate(bool gated, const void* x, std::int64_t rows, std::int64_t cols, void* y,
                     cudaStream_t stream) {
  const auto* in = static_cast<const T*>(x);
  auto* out = static_cast<T*>(y);
  const std::int64_t n = rows * cols;
  const bool vectors = cols % 8 == 0 && is_aligned(x) && is_aligned(y);
  if (gated && vectors) {
    launch_early(activate_kernel<T, kKind, true, 8>, blocks_for(n / 8, kThreads), kThreads, 0, stream, in,
                 rows, cols, out);
  } else if (gated) {
    launch_early(activate_kernel<T, kKind, true, 1>, blocks_for(n, kThreads), kThreads, 0, stream, in, rows,
                 cols, out);
  } else if (vectors) {
    launch_early(activate_kernel<T, kKind, false, 8>, blocks_for(n / 8, kThreads), kThreads, 0, stream, in,
                 rows, cols, out);
  } else {
    launch_early(activate_kernel<T, kKind, false, 1>, blocks_for(n, kThreads), kThreads, 0, stream, in, rows,
                 cols, out);
  }
}

template <class Curve>
void launch_effects(const Curve& curve, bool gated, const void* x, DType dtype, std::int64_t tokens,
                    std::int64_t cols, double* gate, double* up, cudaStream_t stream) {
  if (tokens * cols == 0) return;
  const auto blocks = static_cast<unsigned>((cols + kEffectThreads - 1) / kEffectThreads);
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    effects_kernel<<<blocks, kEffectThreads, 0, stream>>>(curve, static_cast<const T*>(x), gated, tokens,
                                                          cols, gate, up);
  });
  check_launch("mlp_effects");
}

NormArgs with_stride(NormArgs args) {
  if (args.stride == 0) args.stride = args.cols;
  return args;
}

}  // namespace

void norm(const NormArgs& given, void* y, DType y_dtype, cudaStream_t stream, std::int64_t y_stride) {
  const NormArgs args = with_stride(given);
  if (args.rows * args.cols == 0) return;
  if (y_stride == 0) y_stride = args.cols;
  const auto blocks = static_cast<unsigned>(args.rows);
  const bool contiguous = args.stride == args.cols && y_stride == args.cols;
  const bool in_registers = contiguous && !args.layer && args.gain != nullptr && args.bias == nullptr &&
                            args.cols % 4 == 0 && args.cols <= std::int64_t{4} * kQuads * kThreads &&
                            is_aligned(args.x) && is_aligned(args.gain) && is_aligned(y);
  with_type(y_dtype, [&](auto zero) {
    using Y = decltype(zero);
    if (in_registers) {
      launch_early(rms_norm_kernel<Y>, blocks, kThreads, 0, stream, args, static_cast<Y*>(y));
    } else {
      launch_early(norm_kernel<Y, false>, blocks, kThreads, 0, stream, args, static_cast<Y*>(y), y_stride,
                   1.0f);
    }
  });
  check_launch("norm");
}

void norm_add(const NormArgs& given, float factor, float* y, cudaStream_t stream, std::int64_t y_stride) {
  const NormArgs args = with_stride(given);
  if (args.rows * args.cols == 0) return;
  launch_early(norm_kernel<float, true>, static_cast<unsigned>(args.rows), kThreads, 0, stream, args, y,
               y_stride == 0 ? args.cols : y_stride, factor);
  check_launch("norm_add");
}

void norm_rows(const NormArgs& args, void* x, DType dtype, std::int64_t stride, cudaStream_t stream) {
  if (args.rows * args.cols == 0) return;
  with_type(dtype, [&](auto zero) {
    launch_early(norm_rows_kernel<decltype(zero)>, static_cast<unsigned>(args.rows), kThreads, 0, stream,
                 args, static_cast<decltype(zero)*>(x), stride);
  });
  check_launch("norm_rows");
}

void clip_rows(void* x, DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t stride, float limit,
               cudaStream_t stream) {
  if (rows * cols == 0) return;
  with_type(dtype, [&](auto zero) {
    launch_early(clip_rows_kernel<decltype(zero)>, static_cast<unsigned>(rows), kThreads, 0, stream,
                 static_cast<decltype(zero)*>(x), cols, stride, limit);
  });
  check_launch("clip_rows");
}

void add(const void* x, DType x_dtype, float* y, std::int64_t n, cudaStream_t stream, float factor) {
  if (n == 0) return;
  with_type(x_dtype, [&](auto zero) {
    launch_early(add_kernel<decltype(zero)>, std::min(blocks_for(n, kThreads), 16384u), kThreads, 0, stream,
                 static_cast<const decltype(zero)*>(x), y, n, factor);
  });
  check_launch("add");
}

void prepare_heads(const HeadsArgs& args, cudaStream_t stream) {
  const bool scaled = args.scale_beta != 0.0f;
  if (args.rows * args.num_heads == 0 || (!args.normed && args.cos == nullptr && !scaled)) return;
  const std::int64_t element = size_of(args.dtype);
  const bool even = !args.normed && !scaled && !args.neighbours && args.pairs % 2 == 0 &&
                    args.row_stride % 2 == 0 && args.head_stride % 2 == 0 &&
                    is_aligned(args.data, 2 * element);
  with_type(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    const std::int64_t heads = args.rows * args.num_heads;
    if (even) {
      launch_early(rope_kernel<T>, blocks_for(heads * (args.pairs / 2), kThreads), kThreads, 0, stream, args);
    } else {
      launch_early(heads_kernel<T>, blocks_for(heads * kWarp, kThreads), kThreads, 0, stream, args);
    }
  });
  check_launch("prepare_heads");
}

void copy_heads(const CopyHeadsArgs& args, cudaStream_t stream) {
  CopyHeadsArgs whole = args;
  if (whole.padded == 0) whole.padded = whole.size;
  const std::int64_t n = whole.rows * whole.num_heads * whole.padded;
  if (n == 0) return;
  with_type(args.x_dtype, [&](auto x_zero) {
    with_type(args.y_dtype, [&](auto y_zero) {
      copy_heads_kernel<decltype(x_zero), decltype(y_zero)>
          <<<blocks_for(n, kThreads), kThreads, 0, stream>>>(whole);
    });
  });
  check_launch("copy_heads");
}

void gate_heads(const GateHeadsArgs& args, cudaStream_t stream) {
  const std::int64_t n = args.rows * args.num_heads * args.head_size;
  if (n == 0) return;
  with_type(args.dtype, [&](auto zero) {
    gate_heads_kernel<decltype(zero)><<<blocks_for(n, kThreads), kThreads, 0, stream>>>(args);
  });
  check_launch("gate_heads");
}

void scale_rows(void* x, DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t stride, float factor,
                cudaStream_t stream) {
  if (rows * cols == 0) return;
  with_type(dtype, [&](auto zero) {
    scale_rows_kernel<<<blocks_for(rows * cols, kThreads), kThreads, 0, stream>>>(
        static_cast<decltype(zero)*>(x), rows, cols, stride, factor);
  });
  check_launch("scale_rows");
}

void xielu(const XieluNumbers& numbers, const void* x, std::int64_t n, void* y, DType dtype,
           cudaStream_t stream) {
  if (n == 0) return;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_early(xielu_kernel<T>, blocks_for(n, kThreads), kThreads, 0, stream, XieluCurve(numbers),
                 static_cast<const T*>(x), n, static_cast<T*>(y));
  });
  check_launch("xielu");
}

void activate(ActivationKind kind, bool gated, const void* x, std::int64_t rows, std::int64_t cols, void* y,
              DType dtype, cudaStream_t stream) {
  if (rows * cols == 0) return;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    with_activation(kind, [&](auto activation) {
      launch_activate<T, activation.value>(gated, x, rows, cols, y, stream);
    });
  });
  check_launch("activate");
}

void mlp_effects(ActivationKind kind, bool gated, const void* x, DType dtype, std::int64_t tokens,
                 std::int64_t cols, double* gate, double* up, cudaStream_t stream) {
  with_activation(kind, [&](auto activation) {
    launch_effects(ActivationCurve<activation.value>{}, gated, x, dtype, tokens, cols, gate, up, stream);
  });
}

void xielu_effects(const XieluNumbers& numbers, const void* x, DType dtype, std::int64_t tokens,
                   std::int64_t cols, double* gate, double* up, cudaStream_t stream) {
  launch_effects(XieluCurve(numbers), false, x, dtype, tokens, cols, gate, up, stream);
}

void convert(const void* x, DType x_dtype, void* y, DType y_dtype, std::int64_t n, cudaStream_t stream) {
  if (n == 0) return;
  const unsigned blocks = std::min(blocks_for(n, kThreads), 16384u);
  with_type(x_dtype, [&](auto x_zero) {
    with_type(y_dtype, [&](auto y_zero) {
      launch_early(convert_kernel<decltype(x_zero), decltype(y_zero)>, blocks, kThreads, 0, stream,
                   static_cast<const decltype(x_zero)*>(x), static_cast<decltype(y_zero)*>(y), n);
    });
  });
  check_launch("convert");
}

void target_log_probs(const float* logits, std::int64_t rows, std::int64_t cols, float cap,
                      const std::int32_t* targets, double* log_probs, cudaStream_t stream) {
  if (rows == 0) return;
  log_probs_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(logits, cols, cap, targets,
                                                                         log_probs);
  check_launch("target_log_probs");
}

}  // namespace swiftprune::cuda
