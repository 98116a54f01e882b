// Attention of a few new tokens with cached keys and values.
#include "swiftprune/cuda/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMostSize = 256;  // of a head

template <class T>
__global__ __launch_bounds__(kThreads) void append_kernel(AttentionArgs args, CacheArgs cache) {
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t width = args.num_kv_heads * args.head_size;
  if (index >= args.rows * width) return;
  const std::int64_t r = index / width;
  const std::int64_t j = index % width;
  const std::int64_t source =
      r * args.row_stride + j / args.head_size * args.head_stride + j % args.head_size;
  const std::int64_t target = (cache.first_position + r) * width + j;
  static_cast<T*>(cache.keys)[target] = static_cast<const T*>(args.k)[source];
  static_cast<T*>(cache.values)[target] = static_cast<const T*>(args.v)[source];
}

// A block of threads a head of a row: its warps take keys in turn, each with its own running softmax, and the
// parts are added in the order of the warps.
template <class T>
__global__ __launch_bounds__(kThreads) void cached_kernel(AttentionArgs args, CacheArgs cache) {
  constexpr int kOwn = kMostSize / kWarp;  // elements of a lane
  __shared__ float parts[kWarps][kMostSize];
  __shared__ float tops[kWarps];
  __shared__ float totals[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const std::int64_t head = blockIdx.x;
  const std::int64_t row = blockIdx.y;
  const int size = static_cast<int>(args.head_size);
  const std::int64_t width = args.num_kv_heads * args.head_size;
  const std::int64_t kv = head / (args.num_heads / args.num_kv_heads) * args.head_size;
  const T* q = static_cast<const T*>(args.q) + row * args.row_stride + head * args.head_stride;
  const T* keys = static_cast<const T*>(cache.keys) + kv;
  const T* values = static_cast<const T*>(cache.values) + kv;
  const std::int64_t last = cache.first_position + row;
  const std::int64_t first = args.window > 0 && last + 1 > args.window ? last + 1 - args.window : 0;

  float own_q[kOwn];
  float out[kOwn] = {};
#pragma unroll
  for (int i = 0; i < kOwn; ++i) own_q[i] = lane + kWarp * i < size ? to_float(q[lane + kWarp * i]) : 0.0f;
  float top = -INFINITY;
  float total = 0.0f;
  for (std::int64_t key = first + warp; key <= last; key += kWarps) {
    float score = 0.0f;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (lane + kWarp * i < size)
        score = fmaf(own_q[i], to_float(keys[key * width + lane + kWarp * i]), score);
    }
    score = warp_sum(score) * args.scale;
    if (args.softcap > 0.0f) score = args.softcap * tanhf(score / args.softcap);
    const float next = fmaxf(top, score);
    const float correction = expf(top - next);
    const float p = expf(score - next);
    top = next;
    total = total * correction + p;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (lane + kWarp * i < size) {
        out[i] = fmaf(p, to_float(values[key * width + lane + kWarp * i]), out[i] * correction);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (lane + kWarp * i < size) parts[warp][lane + kWarp * i] = out[i];
  }
  if (lane == 0) {
    tops[warp] = top;
    totals[warp] = total;
  }
  __syncthreads();
  float highest = -INFINITY;
  for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, tops[w]);
  for (int j = static_cast<int>(threadIdx.x); j < size; j += kThreads) {
    float sum = 0.0f;
    float weight = 0.0f;
    for (int w = 0; w < kWarps; ++w) {
      const float share = expf(tops[w] - highest);  // 0 for a warp without keys
      sum = fmaf(parts[w][j], share, sum);
      weight = fmaf(totals[w], share, weight);
    }
    T* target = static_cast<T*>(args.out) + (row * args.num_heads + head) * args.head_size;
    target[j] = from_float<T>(sum / weight);
  }
}

}  // namespace

void append_cache(const AttentionArgs& args, const CacheArgs& cache, cudaStream_t stream) {
  const std::int64_t elements = args.rows * args.num_kv_heads * args.head_size;
  if (elements == 0) return;
  with_type(args.dtype, [&](auto zero) {
    append_kernel<decltype(zero)>
        <<<static_cast<unsigned>((elements + kThreads - 1) / kThreads), kThreads, 0, stream>>>(args, cache);
  });
  check_launch("append_cache");
}

void cached_attention(const AttentionArgs& args, const CacheArgs& cache, cudaStream_t stream) {
  if (args.rows == 0) return;
  const dim3 grid(static_cast<unsigned>(args.num_heads), static_cast<unsigned>(args.rows));
  with_type(args.dtype,
            [&](auto zero) { cached_kernel<decltype(zero)><<<grid, kThreads, 0, stream>>>(args, cache); });
  check_launch("cached_attention");
}

}  // namespace swiftprune::cuda
