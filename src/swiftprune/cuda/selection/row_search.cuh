// The search for the k lowest keys of a row, whose keys a block's threads hold in registers or can make
// again.
//
// A threshold is guessed, the keys below it are counted by all threads, and the guess is corrected by
// interpolation between the best bounds until the count is k, at most 32 keys lie between the bounds (a warp
// ranks those), or the bounds are neighbouring floats and what is left are ties. The first guess is the last
// rows' threshold relative to the mean key (an EWMA, the idea of selection/threshold_search.h).
#pragma once

#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {

constexpr int kVectors = 4;  // of eight keys, in each thread
constexpr int kKeys = 8 * kVectors;
constexpr int kMaxWarps = 32;
constexpr std::uint32_t kInfinityBits = 0x7f800000u;
constexpr int kInterpolations = 12;  // then plain bisection: at most 31 more
constexpr float kForget = 0.25f;     // EWMA weight of the newest row

// Keys below `threshold` are pruned, and the first `ties` equal to it.
struct Cut {
  std::uint32_t threshold = 0;
  int ties = 0;
};

// What the rows before tell about a row: uniform over the block.
struct Guess {
  float threshold_of_mean = 0.85f;  // half-normal keys at one half
  float keys_per_bit = 0.0f;        // density of keys over float bits at the threshold; 0: unknown
  bool seen = false;
};

struct Scratch {
  int num_candidates;
  std::uint32_t candidates[kWarp];
  int count[2][kMaxWarps];
  float sum[kMaxWarps + 1];
  std::uint32_t ties[kMaxWarps][2];
};

// Sum over the block. Consecutive calls use two buffers in turn, so one barrier serves each.
__device__ __forceinline__ int count_block(int x, Scratch& scratch, int& phase) {
  x = __reduce_add_sync(kFullWarp, x);
  int* buffer = scratch.count[phase];
  phase ^= 1;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane == 0) buffer[threadIdx.x / kWarp] = x;
  __syncthreads();
  return __reduce_add_sync(kFullWarp, lane < static_cast<int>(blockDim.x) / kWarp ? buffer[lane] : 0);
}

// The cut among `num` <= 32 candidates in the scratch, whose `rank` lowest go: in each warp by itself.
__device__ __forceinline__ Cut cut_candidates(const Scratch& scratch, int num, int rank) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::uint32_t own = lane < num ? scratch.candidates[lane] : 0xffffffffu;
  int less = 0;
#pragma unroll
  for (int i = 0; i < kWarp; ++i) less += __shfl_sync(kFullWarp, own, i) < own ? 1 : 0;
  const bool low_enough = lane < num && less <= rank;
  const std::uint32_t value = __reduce_max_sync(kFullWarp, low_enough ? own : 0u);
  const int below = __reduce_max_sync(kFullWarp, low_enough && own == value ? less : 0);
  return {value, rank - below};
}

// The search itself. below(p): keys whose bits are below p, over the block. gather(low, high): puts the keys
// in [low, high), at most 32, into the scratch. sum: of the n keys. Keys are multiples of 1 << shift in their
// bits. 0 <= k < n.
template <class Below, class Gather>
__device__ __forceinline__ Cut find_cut(const Below& below, const Gather& gather, const Scratch& scratch,
                                        float sum, int n, int k, int shift, Guess& guess) {
  if (k <= 0) return {};
  const std::uint32_t unit = 1u << shift;
  std::uint32_t low = 0;  // below(low) <= k <= below(high)
  std::uint32_t high = kInfinityBits;
  int below_low = 0;
  int below_high = n;
  const float mean = sum / static_cast<float>(n);
  const float density =
      guess.keys_per_bit > 0.0f ? guess.keys_per_bit : 0.3f * static_cast<float>(n) / 8388608.0f;
  const float first = guess.threshold_of_mean * mean;
  std::uint32_t p = first < INFINITY ? __float_as_uint(fmaxf(first, 0.0f)) : kInfinityBits / 2;
  Cut cut{};
  bool found = false;
  bool bounded = false;
  float new_density = 0.0f;
  for (int i = 0; high - low > unit; ++i) {
    if (i >= kInterpolations) p = low + (high - low) / 2;
    p &= ~(unit - 1);
    if (p <= low) p = low + unit;
    if (p >= high) p = high - unit;
    const int count = below(p);
    if (count == k) {
      cut = {p, 0};
      found = true;
      break;
    }
    if (count < k) {
      low = p;
      below_low = count;
    } else {
      high = p;
      below_high = count;
    }
    const int between = below_high - below_low;
    if (low != 0 && high != kInfinityBits) {
      // The first bounds hold enough keys to tell the density; later ones tell chance.
      if (!bounded && between >= 8)
        new_density = static_cast<float>(between) / static_cast<float>(high - low);
      bounded = true;
      if (between <= kWarp) {
        gather(low, high);
        cut = cut_candidates(scratch, between, k - below_low);
        found = true;
        break;
      }
      p = low + static_cast<std::uint32_t>(static_cast<float>(high - low) *
                                           (static_cast<float>(k - below_low) / static_cast<float>(between)));
    } else {
      // A little too far on purpose: the other bound comes close as well.
      const float step = (1.15f * static_cast<float>(k - count) + (k > count ? 2.0f : -2.0f)) / density;
      const auto next = std::int64_t{p} + static_cast<std::int64_t>(fminf(fmaxf(step, -2e8f), 2e8f));
      p = static_cast<std::uint32_t>(min(max(next, std::int64_t{low}), std::int64_t{high}));
    }
  }
  if (!found) cut = {low, k - below_low};
  const float ratio = __uint_as_float(cut.threshold) / mean;
  if (ratio < INFINITY) {
    const float weight = guess.seen ? kForget : 1.0f;
    guess.threshold_of_mean += weight * (ratio - guess.threshold_of_mean);
    guess.seen = true;
  }
  if (new_density > 0.0f) {
    guess.keys_per_bit = guess.keys_per_bit > 0.0f
                             ? guess.keys_per_bit + kForget * (new_density - guess.keys_per_bit)
                             : new_density;
  }
  return cut;
}

// Keys below p, counted on the float pipe: (p - q) times a power of two that makes the smallest difference 1,
// saturated to [0, 1]. Exact where the powers fit.
__device__ __forceinline__ int count_below(const float (&q)[kKeys], std::uint32_t p) {
  const std::uint32_t exponent = p >> 23;
  if (exponent >= 24 && exponent < 254) {
    const float big = __uint_as_float((278u - exponent) << 23);
    const float scaled = __uint_as_float(p) * big;
    float even = 0.0f;
    float odd = 0.0f;
#pragma unroll
    for (int i = 0; i < kKeys; i += 2) {
      even += __saturatef(fmaf(q[i], -big, scaled));
      odd += __saturatef(fmaf(q[i + 1], -big, scaled));
    }
    return static_cast<int>(even + odd);
  }
  int count = 0;
#pragma unroll
  for (int i = 0; i < kKeys; ++i) count += __float_as_uint(q[i]) < p ? 1 : 0;
  return count;
}

__device__ __forceinline__ void start_gather(Scratch& scratch) {
  if (threadIdx.x == 0) scratch.num_candidates = 0;
  __syncthreads();
}
__device__ __forceinline__ void add_candidate(Scratch& scratch, std::uint32_t bits) {
  const int slot = atomicAdd(&scratch.num_candidates, 1);
  if (slot < kWarp) scratch.candidates[slot] = bits;
}

// The keys in [low, high) of all threads.
__device__ __forceinline__ void gather_keys(const float (&q)[kKeys], std::uint32_t low, std::uint32_t high,
                                            Scratch& scratch) {
  start_gather(scratch);
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    const std::uint32_t bits = __float_as_uint(q[i]);
    if (bits - low < high - low) add_candidate(scratch, bits);
  }
  __syncthreads();
}

// Ties before this thread's vector v, in index order (vector v of thread t has index v·threads + t): four
// counters of 16 bits in one scan.
__device__ __forceinline__ void ties_before(const float (&q)[kKeys], std::uint32_t threshold,
                                            Scratch& scratch, int (&before)[kVectors]) {
  std::uint32_t own[2] = {};
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    std::uint32_t equal = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) equal += __float_as_uint(q[8 * v + i]) == threshold ? 1u : 0u;
    own[v / 2] |= equal << (16 * (v % 2));
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  std::uint32_t scan[2] = {own[0], own[1]};
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::uint32_t other = __shfl_up_sync(kFullWarp, scan[h], offset);
      if (lane >= offset) scan[h] += other;
    }
  }
  if (lane == kWarp - 1) {
    scratch.ties[warp][0] = scan[0];
    scratch.ties[warp][1] = scan[1];
  }
  __syncthreads();
  std::uint32_t base[2] = {scan[0] - own[0], scan[1] - own[1]};
  std::uint32_t total[2] = {};
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::uint32_t value = scratch.ties[w][h];
      if (w < warp) base[h] += value;
      total[h] += value;
    }
  }
  int earlier = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    before[v] = earlier + static_cast<int>((base[v / 2] >> (16 * (v % 2))) & 0xffffu);
    earlier += static_cast<int>((total[v / 2] >> (16 * (v % 2))) & 0xffffu);
  }
}

// Bits of the keys of vector v that stay; `rank`: ties before the vector.
__device__ __forceinline__ std::uint32_t kept_bits(const float* q, const Cut& cut, int rank) {
  std::uint32_t keep = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const std::uint32_t bits = __float_as_uint(q[i]);
    bool kept = bits >= cut.threshold;
    if (bits == cut.threshold) kept = rank++ >= cut.ties;
    keep |= (kept ? 1u : 0u) << i;
  }
  return keep;
}

}  // namespace swiftprune::cuda
