// What recurrent mixers compute between their projections (model/recurrent_mixer.h): convolutions over time, the gates
// and the recurrence of gated DeltaNet and Mamba-2, what they give. Sums and states are float, whatever the products are.
#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kStateThreads = 128;
constexpr int kStateWarps = kStateThreads / kWarp;

__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Where a sequence's state lies, and whether it has one yet.
struct Memory {
  std::int64_t lane = 0;
  bool kept = false;  // is anything kept of it?
  bool fresh = true;  // nothing is remembered
};
__device__ __forceinline__ Memory memory_of(const SequencesArgs& args, std::int64_t sequence) {
  if (args.lanes == nullptr) return {};
  return {args.lanes[sequence], true, args.positions[sequence] == 0};
}

// The value of channel c in a row of what is convolved.
template <class T>
__device__ __forceinline__ float convolved_value(const ConvolutionArgs& args, std::int64_t row,
                                                 std::int64_t c) {
  const std::int64_t at = row * args.row_stride + c;
  const float x = to_float(static_cast<const T*>(args.x)[at]);
  return args.factor == nullptr ? x : x * to_float(static_cast<const T*>(args.factor)[at]);
}

// A thread a channel of a row.
template <class T>
__global__ __launch_bounds__(kThreads) void convolution_kernel(ConvolutionArgs args) {
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= args.sequences.rows * args.channels) return;
  const std::int64_t row = index / args.channels, c = index % args.channels;
  const std::int64_t sequence = row / args.sequences.length, n = row % args.sequences.length;
  const std::int64_t before = args.taps_count - 1;
  const Memory memory = memory_of(args.sequences, sequence);
  float sum = args.bias != nullptr ? args.bias[c] : 0.0f;
  for (std::int64_t j = 0; j <= before; ++j) {
    const std::int64_t from = n - before + j;  // in the sequence's rows
    float value = 0.0f;
    if (from >= 0) {
      value = convolved_value<T>(args, row - n + from, c);
    } else if (!memory.fresh) {
      value = args.past[(memory.lane * before + before + from) * args.channels + c];
    }
    sum = fmaf(args.taps[j * args.channels + c], value, sum);
  }
  args.y[index] = args.silu ? sum * sigmoid(sum) : sum;
}

// A thread a channel of a sequence, behind convolution_kernel: the last rows become the past.
template <class T>
__global__ __launch_bounds__(kThreads) void past_kernel(ConvolutionArgs args) {
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t length = args.sequences.length;
  if (index >= args.sequences.rows / length * args.channels) return;
  const std::int64_t sequence = index / args.channels, c = index % args.channels;
  const std::int64_t before = args.taps_count - 1;
  const Memory memory = memory_of(args.sequences, sequence);
  float* past = args.past + memory.lane * before * args.channels + c;
  for (std::int64_t j = 0; j < before; ++j) {
    const std::int64_t from = length - before + j;  // in the sequence's rows; earlier ones move forward
    float value = 0.0f;
    if (from >= 0) {
      value = convolved_value<T>(args, sequence * length + from, c);
    } else if (!memory.fresh) {
      value = past[(j + length) * args.channels];
    }
    past[j * args.channels] = value;
  }
}

// A warp a head of a row.
__global__ __launch_bounds__(kThreads) void length_kernel(ScaleHeadsArgs args) {
  const std::int64_t index = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (index >= args.rows * args.num_heads) return;
  float* x = args.x + index / args.num_heads * args.row_stride + index % args.num_heads * args.head_size;
  float squares = 0.0f;
  for (std::int64_t i = lane; i < args.head_size; i += kWarp) squares = fmaf(x[i], x[i], squares);
  const float factor = args.length / sqrtf(warp_sum(squares) + args.eps);
  for (std::int64_t i = lane; i < args.head_size; i += kWarp) x[i] *= factor;
}

// A thread a head of a row.
template <class T>
__global__ __launch_bounds__(kThreads) void gates_kernel(MixerGatesArgs args) {
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= args.rows * args.num_heads) return;
  const std::int64_t h = index % args.num_heads;
  const std::int64_t at = index / args.num_heads * args.row_stride + h;
  const float x = args.time_scale * to_float(static_cast<const T*>(args.time)[at]);
  const float time = fmaxf(args.least_time, softplus(x + args.step_bias[h]));
  args.decays[index] = expf(-expf(args.decay[h]) * time);
  args.steps[index] = args.rate != nullptr ? sigmoid(to_float(static_cast<const T*>(args.rate)[at])) : time;
}

// A warp a value of a head of a sequence: its column of the state stays in registers, kOwn elements a lane.
template <int kOwn, bool kDelta>
__global__ __launch_bounds__(kStateThreads) void recurrence_kernel(RecurrenceArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t j = std::int64_t{blockIdx.x} * kStateWarps + static_cast<int>(threadIdx.x) / kWarp;
  if (j >= args.value_size) return;
  const std::int64_t h = blockIdx.y, sequence = blockIdx.z;
  const std::int64_t keys = args.key_size;
  const Memory memory = memory_of(args.sequences, sequence);
  float* const state = args.state + ((memory.lane * args.num_heads + h) * args.value_size + j) *
                                        keys;  // read where it is kept
  const auto element = [&](int i) { return lane + std::int64_t{kWarp} * i; };
  float own[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) own[i] = !memory.fresh && element(i) < keys ? state[element(i)] : 0.0f;
  const std::int64_t first_key = h / (args.num_heads / args.num_key_heads) * keys;
  for (std::int64_t n = 0; n < args.sequences.length; ++n) {
    const std::int64_t row = sequence * args.sequences.length + n;
    const float* k = args.k + row * args.row_stride + first_key;
    const float* q = args.q + row * args.row_stride + first_key;
    const float decay = args.decays[row * args.num_heads + h];
    float value = args.v[row * args.row_stride + h * args.value_size + j];
    float key[kOwn];
    float seen = 0.0f;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      key[i] = element(i) < keys ? k[element(i)] : 0.0f;
      own[i] *= decay;
      if constexpr (kDelta) seen = fmaf(key[i], own[i], seen);
    }
    if constexpr (kDelta) value -= warp_sum(seen);
    value *= args.steps[row * args.num_heads + h];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      own[i] = fmaf(key[i], value, own[i]);
      if (element(i) < keys) sum = fmaf(q[element(i)], own[i], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) args.y[(row * args.num_heads + h) * args.value_size + j] = sum;
  }
  if (!memory.kept) return;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (element(i) < keys) state[element(i)] = own[i];
  }
}

// A block of threads a group of a row, whose elements are found again after the sum.
template <class T>
__global__ __launch_bounds__(kThreads) void output_kernel(MixerOutputArgs args) {
  __shared__ float scratch[kWarp + 1];
  const std::int64_t row = blockIdx.x, first = std::int64_t{blockIdx.y} * args.group_size;
  const float* y = args.y + row * args.num_groups * args.group_size + first;
  const T* gate = static_cast<const T*>(args.gate) + row * args.gate_stride + first;
  T* out = static_cast<T*>(args.out) + row * args.out_stride + first;
  const auto gate_of = [&](std::int64_t i) {
    const float x = args.gate_scale * to_float(gate[i]);
    return args.silu ? x * sigmoid(x) : x;
  };
  const auto value_of = [&](std::int64_t i) {
    float value = y[i];
    if (args.skip != nullptr)
      value = fmaf(args.skip[(first + i) / args.head_size], args.v[row * args.v_stride + first + i], value);
    return value;
  };
  const bool normed = args.norm != nullptr;
  float factor = 1.0f;
  if (normed) {
    float squares = 0.0f;
    for (std::int64_t i = threadIdx.x; i < args.group_size; i += kThreads) {
      const float value = args.norm_first ? value_of(i) : value_of(i) * gate_of(i);
      squares = fmaf(value, value, squares);
    }
    factor = rsqrtf(block_sum(squares, scratch) / static_cast<float>(args.group_size) + args.eps);
  }
  const float* gain = args.norm + std::int64_t{blockIdx.y} * args.norm_stride;
  for (std::int64_t i = threadIdx.x; i < args.group_size; i += kThreads) {
    float value = value_of(i) * gate_of(i);
    if (normed) value *= factor * gain[i];
    out[i] = from_float<T>(value);
  }
}

// A thread an element.
template <class T>
__global__ __launch_bounds__(kThreads) void ungroup_kernel(UngroupArgs args) {
  const std::int64_t group = args.value_heads / args.key_heads;
  const std::int64_t keys = args.key_heads * args.key_size, values = args.value_heads * args.value_size;
  const std::int64_t of_group = group * args.value_size;  // values of a key head
  const std::int64_t cols = 2 * keys + 2 * values + 2 * args.value_heads;
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= args.rows * cols) return;
  const std::int64_t row = index / cols;
  std::int64_t c = index % cols;
  const std::int64_t each = 2 * args.key_size + 2 * of_group;  // columns of a key head
  std::int64_t from = 0;
  if (c < 2 * keys) {  // q, then k
    const std::int64_t part = c / keys;
    c %= keys;
    from = c / args.key_size * each + part * args.key_size + c % args.key_size;
  } else if ((c -= 2 * keys) < 2 * values) {  // values, then z
    const std::int64_t part = c / values;
    c %= values;
    from = c / of_group * each + 2 * args.key_size + part * of_group + c % of_group;
  } else {  // b, then a
    c -= 2 * values;
    const std::int64_t part = c / args.value_heads;
    c %= args.value_heads;
    from = 2 * keys + 2 * values + c / group * 2 * group + part * group + c % group;
  }
  static_cast<T*>(args.y)[index] = static_cast<const T*>(args.x)[row * cols + from];
}

template <bool kDelta>
void launch_recurrence(const RecurrenceArgs& args, cudaStream_t stream) {
  const dim3 grid(blocks_for(args.value_size, kStateWarps), static_cast<unsigned>(args.num_heads),
                  static_cast<unsigned>(args.sequences.rows / args.sequences.length));
  if (args.key_size <= 2 * kWarp) {
    recurrence_kernel<2, kDelta><<<grid, kStateThreads, 0, stream>>>(args);
  } else if (args.key_size <= 4 * kWarp) {
    recurrence_kernel<4, kDelta><<<grid, kStateThreads, 0, stream>>>(args);
  } else {
    static_assert(kMostStateKeys == 16 * kWarp);
    recurrence_kernel<16, kDelta><<<grid, kStateThreads, 0, stream>>>(args);
  }
}

}  // namespace

void causal_convolution(const ConvolutionArgs& args, cudaStream_t stream) {
  const std::int64_t n = args.sequences.rows * args.channels;
  if (n == 0) return;
  with_type(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    convolution_kernel<T><<<blocks_for(n, kThreads), kThreads, 0, stream>>>(args);
    if (args.past == nullptr) return;
    past_kernel<T><<<blocks_for(n / args.sequences.length, kThreads), kThreads, 0, stream>>>(args);
  });
  check_launch("causal_convolution");
}

void scale_heads(const ScaleHeadsArgs& args, cudaStream_t stream) {
  if (args.rows * args.num_heads == 0) return;
  length_kernel<<<blocks_for(args.rows * args.num_heads, kWarps), kThreads, 0, stream>>>(args);
  check_launch("scale_heads");
}

void mixer_gates(const MixerGatesArgs& args, cudaStream_t stream) {
  const std::int64_t n = args.rows * args.num_heads;
  if (n == 0) return;
  with_type(args.dtype, [&](auto zero) {
    gates_kernel<decltype(zero)><<<blocks_for(n, kThreads), kThreads, 0, stream>>>(args);
  });
  check_launch("mixer_gates");
}

void recurrence(const RecurrenceArgs& args, cudaStream_t stream) {
  if (args.sequences.rows == 0) return;
  args.delta_rule ? launch_recurrence<true>(args, stream) : launch_recurrence<false>(args, stream);
  check_launch("recurrence");
}

void mixer_output(const MixerOutputArgs& args, cudaStream_t stream) {
  if (args.rows * args.num_groups == 0) return;
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>(args.num_groups));
  with_type(args.dtype,
            [&](auto zero) { output_kernel<decltype(zero)><<<grid, kThreads, 0, stream>>>(args); });
  check_launch("mixer_output");
}

void ungroup(const UngroupArgs& args, cudaStream_t stream) {
  const std::int64_t cols = 2 * args.key_heads * args.key_size + 2 * args.value_heads * (args.value_size + 1);
  if (args.rows == 0) return;
  with_type(args.dtype, [&](auto zero) {
    ungroup_kernel<decltype(zero)><<<blocks_for(args.rows * cols, kThreads), kThreads, 0, stream>>>(args);
  });
  check_launch("ungroup");
}

}  // namespace swiftprune::cuda
