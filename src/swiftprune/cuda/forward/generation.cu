// Attention of a few new tokens with cached keys and values, and what else only generation needs.
#include <algorithm>

#include "swiftprune/cuda/forward/lane_places.cuh"
#include "swiftprune/cuda/runtime/device_math.cuh"
#include "swiftprune/cuda/runtime/early_launch.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kAppendThreads = 256;
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMostSize = static_cast<int>(kMostTiledHeadSize);
constexpr int kUnroll = 4;          // keys of a group of lanes at a time
constexpr int kBlocks = 1024;       // that should run at once: eight a multiprocessor of a large GPU
constexpr int kMostSplits = kWarp;  // of the keys of a row: a lane each when they are combined
constexpr int kSplitKeys = 64;      // no fewer, or combining costs more than it gains

constexpr int kCounterBytes = kBlocks * static_cast<int>(sizeof(unsigned));
constexpr int kPartFloats = kMostSize + 2;  // the weighted sum, then the largest score and the total
static_assert(kCounterBytes + kBlocks * kPartFloats * static_cast<int>(sizeof(float)) <= kCacheScratch);

template <class T>
__global__ __launch_bounds__(kAppendThreads) void append_kernel(AttentionArgs args, CacheArgs cache) {
  start_early();
  const std::int64_t index = std::int64_t{blockIdx.x} * kAppendThreads + threadIdx.x;
  const std::int64_t width = args.num_kv_heads * args.head_size;
  if (index >= args.rows * width) return;
  const std::int64_t r = index / width;
  const std::int64_t j = index % width;
  const std::int64_t source =
      r * args.row_stride + j / args.head_size * args.head_stride + j % args.head_size;
  const std::int64_t s = r / args.sequence_length;
  const LanePlaces<T> places(cache, s, width);
  const auto at = places.at(cache.positions[s] + r % args.sequence_length);
  at.keys[j] = static_cast<const T*>(args.k)[source];
  at.values[j] = static_cast<const T*>(args.v)[source];
}

// A thread four elements of a query, a key or a value: two pairs that are rotated, or what is not rotated.
template <class T>
__global__ __launch_bounds__(kAppendThreads) void rotate_and_append_kernel(HeadsArgs heads,
                                                                           AttentionArgs args,
                                                                           CacheArgs cache) {
  start_early();
  struct alignas(sizeof(T) * 2) Two {
    T v[2];
  };
  const int quads = static_cast<int>(args.head_size / 4);
  const std::int64_t all_heads = args.num_heads + 2 * args.num_kv_heads;
  const std::int64_t index = std::int64_t{blockIdx.x} * kAppendThreads + threadIdx.x;
  if (index >= args.rows * all_heads * quads) return;
  const int quad = static_cast<int>(index % quads);
  const std::int64_t head = index / quads % all_heads;
  const std::int64_t r = index / quads / all_heads;
  const std::int64_t position = cache.positions[r / args.sequence_length] + r % args.sequence_length;
  const bool is_value = head >= args.num_heads + args.num_kv_heads;
  const bool is_key = head >= args.num_heads && !is_value;
  const int pairs = static_cast<int>(heads.pairs);
  const bool rotates = !is_value && 2 * quad < pairs;
  const int at[2] = {rotates ? 2 * quad : 4 * quad, rotates ? 2 * quad + pairs : 4 * quad + 2};
  T* x = static_cast<T*>(heads.data) + r * heads.row_stride + head * heads.head_stride;
  Two low = *reinterpret_cast<Two*>(x + at[0]);
  Two high = *reinterpret_cast<Two*>(x + at[1]);
  if (rotates) {
    const float2 cos = *reinterpret_cast<const float2*>(heads.cos + position * pairs + at[0]);
    const float2 sin = *reinterpret_cast<const float2*>(heads.sin + position * pairs + at[0]);
    const float a[2] = {to_float(low.v[0]), to_float(low.v[1])};
    const float b[2] = {to_float(high.v[0]), to_float(high.v[1])};
    low.v[0] = from_float<T>(a[0] * cos.x - b[0] * sin.x);
    low.v[1] = from_float<T>(a[1] * cos.y - b[1] * sin.y);
    high.v[0] = from_float<T>(b[0] * cos.x + a[0] * sin.x);
    high.v[1] = from_float<T>(b[1] * cos.y + a[1] * sin.y);
    *reinterpret_cast<Two*>(x + at[0]) = low;
    *reinterpret_cast<Two*>(x + at[1]) = high;
  }
  if (!is_key && !is_value) return;
  const std::int64_t kv_head = head - args.num_heads - (is_value ? args.num_kv_heads : 0);
  const LanePlaces<T> places(cache, r / args.sequence_length, args.num_kv_heads * args.head_size);
  const auto place = places.at(position);
  T* target = (is_value ? place.values : place.keys) + kv_head * args.head_size;
  *reinterpret_cast<Two*>(target + at[0]) = low;
  *reinterpret_cast<Two*>(target + at[1]) = high;
}

// 16 bytes of a head.
template <class T>
struct alignas(16) Part {
  static constexpr int kSize = 16 / static_cast<int>(sizeof(T));
  T v[kSize];
};
// Elements first .. of a head of `size`; zeros beyond it. aligned: all parts lie inside and at multiples
// of 16.
template <class T>
__device__ __forceinline__ Part<T> load_part(const T* head, int first, int size, bool aligned) {
  Part<T> part;
  if (aligned) {
    if (first < size) return *reinterpret_cast<const Part<T>*>(head + first);
    *reinterpret_cast<uint4*>(&part) = make_uint4(0, 0, 0, 0);
    return part;
  }
#pragma unroll
  for (int e = 0; e < Part<T>::kSize; ++e) {
    part.v[e] = first + e < size ? head[first + e] : from_float<T>(0.0f);
  }
  return part;
}

// A running softmax over the keys that a group of lanes has seen; each lane holds kOwn elements of the head.
template <int kOwn>
struct Softmax {
  float top = -INFINITY;
  float total = 0.0f;
  float out[kOwn] = {};

  // Both then stand relative to `next`.
  __device__ __forceinline__ void raise(float next) {
    const float correction = top == -INFINITY ? 0.0f : expf(top - next);
    top = next;
    total *= correction;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) out[i] *= correction;
  }
  // Adds what the lane `offset` away has.
  __device__ __forceinline__ void merge(int offset) {
    const float next = fmaxf(top, __shfl_xor_sync(kFullWarp, top, offset));
    raise(next);
    total += __shfl_xor_sync(kFullWarp, total, offset);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) out[i] += __shfl_xor_sync(kFullWarp, out[i], offset);
  }
};

// The parts' weighted sums over their totals and the sink's; part p of element j is value(p, j), its largest score
// top(p), -inf for a part without keys. At most a warp's lanes of parts; shares: shared memory for one float each.
template <class T, class Top, class Total, class Value>
__device__ __forceinline__ void write_combined(T* target, int size, int parts, const Top& top,
                                               const Total& total, const Value& value, const float* sinks,
                                               std::int64_t head, float* shares) {
  const int part = static_cast<int>(threadIdx.x);
  if (part < kWarp) {
    const float own = part < parts ? top(part) : -INFINITY;
    const float highest = warp_max(own);
    const float share = own == -INFINITY ? 0.0f : expf(own - highest);
    const float weight = warp_sum(part < parts ? share * total(part) : 0.0f);
    shares[part] = share / with_sink(weight, highest, sinks, head);
  }
  __syncthreads();
  for (int j = static_cast<int>(threadIdx.x); j < size; j += kThreads) {
    float sum = 0.0f;
#pragma unroll 8
    for (int p = 0; p < parts; ++p) sum = fmaf(value(p, j), shares[p], sum);
    target[j] = from_float<T>(sum);
  }
}

// A block of threads takes one of gridDim.z splits of the keys of a head (x) of a row (y). Groups of kLanes
// lanes take keys in turn, and the splits are combined by the block that ends last, always in the same order.
template <class T, int kLanes, int kParts>
__global__ __launch_bounds__(kThreads) void cached_kernel(AttentionArgs args, CacheArgs cache, bool aligned) {
  start_early();
  constexpr int kSize = Part<T>::kSize;
  constexpr int kOwn = kParts * kSize;
  constexpr int kGroups = kThreads / kLanes;
  __shared__ float sums[kWarps][kMostSize];
  __shared__ float tops[kWarps];
  __shared__ float totals[kWarps];
  __shared__ float shares[kWarp];
  __shared__ bool is_last;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int member = lane % kLanes;
  const int group = static_cast<int>(threadIdx.x) / kLanes;
  const int splits = static_cast<int>(gridDim.z);
  const std::int64_t head = blockIdx.x;
  const std::int64_t row = blockIdx.y;
  const int size = static_cast<int>(args.head_size);
  const std::int64_t sequence = row / args.sequence_length;
  const LanePlaces<T> places(cache, sequence, args.num_kv_heads * args.head_size);
  const std::int64_t start = head / (args.num_heads / args.num_kv_heads) * args.head_size;
  const T* q = static_cast<const T*>(args.q) + row * args.row_stride + head * args.head_stride;
  const std::int64_t end = cache.positions[sequence] + row % args.sequence_length + 1;
  const std::int64_t begin = args.window > 0 && end > args.window ? end - args.window : 0;
  const std::int64_t per_split = (end - begin + splits - 1) / splits;
  const std::int64_t first = begin + per_split * blockIdx.z;
  const std::int64_t last = min(end, first + per_split);
  const auto element = [&](int p) { return (p * kLanes + member) * kSize; };

  Part<T> own_q[kParts];
#pragma unroll
  for (int p = 0; p < kParts; ++p) own_q[p] = load_part(q, element(p), size, aligned);
  Softmax<kOwn> state;
  for (std::int64_t base = first; base < last; base += kGroups * kUnroll) {
    Part<T> k[kUnroll][kParts];
    Part<T> v[kUnroll][kParts];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const auto at = places.at(min(base + u * kGroups + group, last - 1));
#pragma unroll
      for (int p = 0; p < kParts; ++p) k[u][p] = load_part(at.keys + start, element(p), size, aligned);
#pragma unroll
      for (int p = 0; p < kParts; ++p) v[u][p] = load_part(at.values + start, element(p), size, aligned);
    }
    float scores[kUnroll];
    float next = state.top;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float score = 0.0f;
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
#pragma unroll
        for (int e = 0; e < kSize; ++e) score = fmaf(to_float(own_q[p].v[e]), to_float(k[u][p].v[e]), score);
      }
#pragma unroll
      for (int offset = kLanes / 2; offset > 0; offset /= 2)
        score += __shfl_xor_sync(kFullWarp, score, offset);
      score *= args.scale;
      if (args.softcap > 0.0f) score = args.softcap * tanhf(score / args.softcap);
      scores[u] = base + u * kGroups + group < last ? score : -INFINITY;
      next = fmaxf(next, scores[u]);
    }
    if (next == -INFINITY) continue;  // this group has had no key; its lanes shuffle no more in this turn
    state.raise(next);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const float weight = expf(scores[u] - next);
      state.total += weight;
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
#pragma unroll
        for (int e = 0; e < kSize; ++e)
          state.out[p * kSize + e] = fmaf(weight, to_float(v[u][p].v[e]), state.out[p * kSize + e]);
      }
    }
  }
  __syncwarp();
#pragma unroll
  for (int offset = kLanes; offset < kWarp; offset *= 2) state.merge(offset);
  if (lane < kLanes) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (element(i / kSize) + i % kSize < kMostSize)
        sums[warp][element(i / kSize) + i % kSize] = state.out[i];
    }
  }
  if (lane == 0) {
    tops[warp] = state.top;
    totals[warp] = state.total;
  }
  __syncthreads();
  T* target = static_cast<T*>(args.out) + (row * args.num_heads + head) * args.head_size;
  if (splits == 1) {
    write_combined(
        target, size, kWarps, [&](int w) { return tops[w]; }, [&](int w) { return totals[w]; },
        [&](int w, int j) { return sums[w][j]; }, args.sinks, head, shares);
    return;
  }
  auto* const counters = static_cast<unsigned*>(cache.scratch);
  auto* const parts = reinterpret_cast<float*>(static_cast<std::byte*>(cache.scratch) + kCounterBytes);
  const std::int64_t item = row * args.num_heads + head;
  const auto part = [&](int split) { return parts + (item * splits + split) * kPartFloats; };
  float* const own = part(static_cast<int>(blockIdx.z));
  float highest = -INFINITY;
  for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, tops[w]);
  const auto share = [&](int w) { return tops[w] == -INFINITY ? 0.0f : expf(tops[w] - highest); };
  for (int j = static_cast<int>(threadIdx.x); j < size; j += kThreads) {
    float sum = 0.0f;
    for (int w = 0; w < kWarps; ++w) sum = fmaf(sums[w][j], share(w), sum);
    own[j] = sum;
  }
  if (threadIdx.x == 0) {
    float total = 0.0f;
    for (int w = 0; w < kWarps; ++w) total = fmaf(totals[w], share(w), total);
    own[kMostSize] = highest;
    own[kMostSize + 1] = total;
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicAdd(counters + item, 1u) == static_cast<unsigned>(splits) - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  write_combined(
      target, size, splits, [&](int s) { return __ldcg(part(s) + kMostSize); },
      [&](int s) { return __ldcg(part(s) + kMostSize + 1); },
      [&](int s, int j) { return __ldcg(part(s) + j); }, args.sinks, head, shares);
  if (threadIdx.x == 0) counters[item] = 0;  // for the next launch
}

template <class T, int kLanes, int kParts>
void launch_cached(const AttentionArgs& args, const CacheArgs& cache, cudaStream_t stream) {
  static_assert(kLanes * kParts * Part<T>::kSize <= kMostSize);
  const std::int64_t items = args.num_heads * args.rows;
  const std::int64_t splits =
      std::clamp<std::int64_t>(std::min(kBlocks / items, cache.capacity / kSplitKeys), 1, kMostSplits);
  const dim3 grid(static_cast<unsigned>(args.num_heads), static_cast<unsigned>(args.rows),
                  static_cast<unsigned>(splits));
  constexpr std::int64_t kAligned = Part<T>::kSize;
  const bool aligned = args.head_size % kAligned == 0 && args.row_stride % kAligned == 0 &&
                       args.head_stride % kAligned == 0 && is_aligned(args.q);
  launch_early(cached_kernel<T, kLanes, kParts>, grid, kThreads, 0, stream, args, cache, aligned);
}

__global__ __launch_bounds__(kAppendThreads) void soft_cap_kernel(float* x, std::int64_t n, float cap) {
  start_early();
  const std::int64_t i = std::int64_t{blockIdx.x} * kAppendThreads + threadIdx.x;
  if (i < n) x[i] = cap * tanhf(x[i] / cap);
}

__global__ __launch_bounds__(kAppendThreads) void read_kernel(const uint4* x, std::int64_t n,
                                                              std::uint32_t* y) {
  const std::int64_t step = std::int64_t{gridDim.x} * kAppendThreads;
  std::uint32_t sum = 0;
#pragma unroll 8
  for (std::int64_t i = std::int64_t{blockIdx.x} * kAppendThreads + threadIdx.x; i < n; i += step) {
    const uint4 word = __ldcs(x + i);
    sum += word.x ^ word.y ^ word.z ^ word.w;
  }
  if (sum == 0x9e3779b9u) *y = sum;  // keeps the reads
}

}  // namespace

void append_cache(const AttentionArgs& args, const CacheArgs& cache, cudaStream_t stream) {
  const std::int64_t elements = args.rows * args.num_kv_heads * args.head_size;
  if (elements == 0) return;
  with_type(args.dtype, [&](auto zero) {
    launch_early(append_kernel<decltype(zero)>,
                 static_cast<unsigned>((elements + kAppendThreads - 1) / kAppendThreads), kAppendThreads, 0,
                 stream, args, cache);
  });
  check_launch("append_cache");
}

bool rotate_and_append(const HeadsArgs& heads, const AttentionArgs& args, const CacheArgs& cache,
                       cudaStream_t stream) {
  const std::int64_t element = size_of(args.dtype);
  const std::int64_t d = args.head_size;
  const auto at = [&](std::int64_t head) {
    return static_cast<const std::byte*>(heads.data) + head * heads.head_stride * element;
  };
  const bool takes = !heads.normed && heads.scale_beta == 0.0f && heads.cos != nullptr && !heads.neighbours &&
                     heads.pairs % 2 == 0 && d % 4 == 0 && (d - 2 * heads.pairs) % 4 == 0 &&
                     heads.row_stride % 2 == 0 && heads.head_stride % 2 == 0 &&
                     is_aligned(heads.data, 2 * element) && args.q == at(0) && args.k == at(args.num_heads) &&
                     args.v == at(args.num_heads + args.num_kv_heads);
  if (!takes) return false;
  const std::int64_t threads = args.rows * (args.num_heads + 2 * args.num_kv_heads) * (d / 4);
  if (threads == 0) return true;
  with_type(args.dtype, [&](auto zero) {
    launch_early(rotate_and_append_kernel<decltype(zero)>,
                 static_cast<unsigned>((threads + kAppendThreads - 1) / kAppendThreads), kAppendThreads, 0,
                 stream, heads, args, cache);
  });
  check_launch("rotate_and_append");
  return true;
}

void cached_attention(const AttentionArgs& args, const CacheArgs& cache, cudaStream_t stream) {
  if (args.rows == 0) return;
  if (needs_wide_attention(args)) return wide_attention(args, &cache, stream);
  with_type(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == sizeof(float)) {
      if (args.head_size <= 64) return launch_cached<T, 16, 1>(args, cache, stream);
      if (args.head_size <= 128) return launch_cached<T, 32, 1>(args, cache, stream);
      launch_cached<T, 32, 2>(args, cache, stream);
    } else {
      if (args.head_size <= 64) return launch_cached<T, 8, 1>(args, cache, stream);
      if (args.head_size <= 128) return launch_cached<T, 16, 1>(args, cache, stream);
      launch_cached<T, 32, 1>(args, cache, stream);
    }
  });
  check_launch("cached_attention");
}

void soft_cap(float* x, std::int64_t n, float cap, cudaStream_t stream) {
  if (n == 0) return;
  launch_early(soft_cap_kernel, static_cast<unsigned>((n + kAppendThreads - 1) / kAppendThreads),
               kAppendThreads, 0, stream, x, n, cap);
  check_launch("soft_cap");
}

void read_all(const void* x, std::int64_t bytes, std::uint32_t* y, cudaStream_t stream) {
  constexpr unsigned kReadBlocks = 2048;  // more than run at once
  read_kernel<<<kReadBlocks, kAppendThreads, 0, stream>>>(static_cast<const uint4*>(x), bytes / 16, y);
  check_launch("read_all");
}

}  // namespace swiftprune::cuda
