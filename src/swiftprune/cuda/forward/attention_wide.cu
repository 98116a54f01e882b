// Attention of heads that the tiled kernels have no room for, and with slopes (ALiBi): a warp a head of a row goes through
// its keys one by one with a running softmax. Plain rather than fast: few layers of few models need it.
#include "swiftprune/cuda/forward/lane_places.cuh"
#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

// kOwn elements of the head a lane.
template <class T, int kOwn>
__global__ __launch_bounds__(kThreads) void wide_kernel(AttentionArgs args, CacheArgs cache) {
  const std::int64_t index = std::int64_t{blockIdx.x} * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (index >= args.rows * args.num_heads) return;
  const std::int64_t row = index / args.num_heads, head = index % args.num_heads;
  const std::int64_t kv_head = head / (args.num_heads / args.num_kv_heads);
  const std::int64_t sequence = row / args.sequence_length, n = row % args.sequence_length;
  const int size = static_cast<int>(args.head_size);
  const bool cached = cache.pages != nullptr;
  const std::int64_t position = cached ? cache.positions[sequence] + n : n;
  const std::int64_t start =
      cached ? kv_head * args.head_size : (row - n) * args.row_stride + kv_head * args.head_stride;
  const LanePlaces<T> places =
      cached ? LanePlaces<T>(cache, sequence, args.num_kv_heads * args.head_size) : LanePlaces<T>();
  const T* q = static_cast<const T*>(args.q) + row * args.row_stride + head * args.head_stride;
  const auto element = [&](int i) { return lane + kWarp * i; };
  float own_q[kOwn];
  float out[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    own_q[i] = element(i) < size ? to_float(q[element(i)]) : 0.0f;
    out[i] = 0.0f;
  }
  const float slope = args.slopes != nullptr ? args.slopes[head] : 0.0f;
  float top = -INFINITY;
  float total = 0.0f;
  const std::int64_t begin = args.window > 0 && position >= args.window ? position - args.window + 1 : 0;
  for (std::int64_t key = begin; key <= position; ++key) {
    const T* k = static_cast<const T*>(args.k) + key * args.row_stride;
    const T* v = static_cast<const T*>(args.v) + key * args.row_stride;
    if (cached) {
      const auto at = places.at(key);
      k = at.keys;
      v = at.values;
    }
    k += start;
    v += start;
    float score = 0.0f;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (element(i) < size) score = fmaf(own_q[i], to_float(k[element(i)]), score);
    }
    score = warp_sum(score) * args.scale + slope * static_cast<float>(key - position);
    if (args.softcap > 0.0f) score = args.softcap * tanhf(score / args.softcap);
    const float next = fmaxf(top, score);
    const float correction = expf(top - next);  // 0 before the first key
    const float weight = expf(score - next);
    top = next;
    total = fmaf(total, correction, weight);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const float value = element(i) < size ? to_float(v[element(i)]) : 0.0f;
      out[i] = fmaf(out[i], correction, weight * value);
    }
  }
  total = with_sink(total, top, args.sinks, head);
  T* target = static_cast<T*>(args.out) + index * args.head_size;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (element(i) < size) target[element(i)] = from_float<T>(out[i] / total);
  }
}

}  // namespace

void wide_attention(const AttentionArgs& args, const CacheArgs* cache, cudaStream_t stream) {
  if (args.rows == 0) return;
  const auto blocks = static_cast<unsigned>((args.rows * args.num_heads + kWarps - 1) / kWarps);
  const CacheArgs of_cache = cache != nullptr ? *cache : CacheArgs{};
  with_type(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (args.head_size <= 4 * kWarp)
      return wide_kernel<T, 4><<<blocks, kThreads, 0, stream>>>(args, of_cache);
    static_assert(kMostHeadSize == 16 * kWarp);
    wide_kernel<T, 16><<<blocks, kThreads, 0, stream>>>(args, of_cache);
  });
  check_launch("wide_attention");
}

}  // namespace swiftprune::cuda
