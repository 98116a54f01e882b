// Greedy exchanges of one kept and one pruned weight of a row, each by its exact change of the error
// (refinement/swaps.h). A block a row; its threads keep their cheapest candidates at hand, and the shortlists
// of 32 are drawn from those one by one.
#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kShortlist = 32;
constexpr float kMinGain = 1e-5f;  // a gain below this share of its terms is rounding
constexpr std::uint64_t kNone = ~std::uint64_t{0};

// Orders like (value, index): smaller first.
__device__ __forceinline__ std::uint64_t ordered(float value, std::uint32_t index) {
  const std::uint32_t bits = __float_as_uint(value);
  const std::uint32_t key = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return (std::uint64_t{key} << 32) | index;
}
__device__ __forceinline__ float value_of(std::uint64_t key) {
  const auto bits = static_cast<std::uint32_t>(key >> 32);
  return __uint_as_float((bits & 0x80000000u) != 0 ? bits ^ 0x80000000u : ~bits);
}
__device__ __forceinline__ int index_of(std::uint64_t key) { return static_cast<int>(key & 0xffffffffu); }

__device__ __forceinline__ std::uint64_t warp_min(std::uint64_t x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const std::uint64_t other = __shfl_xor_sync(kFullWarp, x, offset);
    x = other < x ? other : x;
  }
  return x;
}

struct Shared {
  std::uint64_t warps[2][kThreads / kWarp];
  std::uint64_t list[2][kShortlist];  // to prune, to restore
  int count[2];
  std::uint64_t best;  // (change, rank of the pair)
  int pair[2];
};

__device__ __forceinline__ std::uint64_t block_min(std::uint64_t x, std::uint64_t* warps) {
  x = warp_min(x);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = x;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return warp_min(lane < kThreads / kWarp ? warps[lane] : kNone);
}

template <class T>
struct Row {
  const T* w;
  float* c;
  std::uint8_t* mask;
  const float* gram;
  const float* diagonal;
  int n;

  __device__ float weight(int j) const { return to_float(w[j]); }
  // What it costs alone to prune a kept weight, or to restore a pruned one.
  __device__ float cost(int j) const {
    const float value = weight(j);
    const float sign = mask[j] != 0 ? 2.0f : -2.0f;
    return value * (sign * c[j] + value * diagonal[j]);
  }
  // The thread's cheapest candidate of one side (0: to prune) beyond `after`.
  __device__ std::uint64_t next(int side, std::uint64_t after, bool first) const {
    std::uint64_t best = kNone;
    for (int j = static_cast<int>(threadIdx.x); j < n; j += kThreads) {
      if ((mask[j] != 0) != (side == 0)) continue;
      const float value = cost(j);
      if (!(value < INFINITY)) continue;
      const std::uint64_t key = ordered(value, static_cast<std::uint32_t>(j));
      if (key < best && (first || key > after)) best = key;
    }
    return best;
  }
  // ΔE of the pair; not negative: no gain.
  __device__ float change(int p, int q, float prune, float restore) const {
    const float wp = weight(p);
    const float wq = weight(q);
    const float delta = prune + restore - 2.0f * wp * wq * gram[std::int64_t{p} * n + q];
    const float size = wp * wp * diagonal[p] + wq * wq * diagonal[q] + fabsf(prune) + fabsf(restore);
    return delta < -kMinGain * size ? delta : 0.0f;
  }
};

template <class T>
__device__ void shortlist(const Row<T>& row, Shared& shared) {
  for (int side = 0; side < 2; ++side) {
    std::uint64_t own = row.next(side, 0, true);
    int count = 0;
    for (; count < kShortlist; ++count) {
      const std::uint64_t least = block_min(own, shared.warps[side]);
      if (least == kNone) break;
      if (own == least) {
        shared.list[side][count] = least;
        own = row.next(side, least, false);
      }
    }
    if (threadIdx.x == 0) shared.count[side] = count;
  }
  __syncthreads();
}

// Sets shared.pair to the best exchange, or {-1, -1}.
template <class T>
__device__ void find_best(const Row<T>& row, int group, Shared& shared) {
  std::uint64_t best = kNone;
  int pair[2] = {-1, -1};
  const auto consider = [&](int p, int q, float prune, float restore, std::uint32_t rank) {
    const float change = row.change(p, q, prune, restore);
    if (!(change < 0.0f)) return;
    const std::uint64_t key = ordered(change, rank);
    if (key >= best) return;
    best = key;
    pair[0] = p;
    pair[1] = q;
  };
  if (group == 0) {
    shortlist(row, shared);
    const int num = shared.count[0] * shared.count[1];
    for (int i = static_cast<int>(threadIdx.x); i < num; i += kThreads) {
      const std::uint64_t p = shared.list[0][i / shared.count[1]];
      const std::uint64_t q = shared.list[1][i % shared.count[1]];
      consider(index_of(p), index_of(q), value_of(p), value_of(q), static_cast<std::uint32_t>(i));
    }
  } else {
    for (int first = static_cast<int>(threadIdx.x) * group; first < row.n; first += kThreads * group) {
      for (int p = first; p < first + group; ++p) {
        if (row.mask[p] == 0) continue;
        const float prune = row.cost(p);
        for (int q = first; q < first + group; ++q) {
          if (row.mask[q] != 0) continue;
          consider(p, q, prune, row.cost(q), static_cast<std::uint32_t>(p * group + (q - first)));
        }
      }
    }
  }
  const std::uint64_t least = block_min(best, shared.warps[0]);
  if (threadIdx.x == 0) shared.pair[0] = shared.pair[1] = -1;
  __syncthreads();
  if (best == least && best != kNone) {
    shared.pair[0] = pair[0];
    shared.pair[1] = pair[1];
  }
  __syncthreads();
}

template <class T>
__global__ __launch_bounds__(kThreads) void swaps_kernel(SwapsArgs args) {
  __shared__ Shared shared;
  const std::int64_t start = std::int64_t{blockIdx.x} * args.cols;
  const Row<T> row{static_cast<const T*>(args.weight) + start,
                   args.c + start,
                   args.mask + start,
                   args.gram,
                   args.diagonal,
                   static_cast<int>(args.cols)};
  for (int swap = 0; swap < args.max_swaps; ++swap) {
    find_best(row, args.group, shared);
    const int p = shared.pair[0];
    const int q = shared.pair[1];
    if (p < 0) return;
    const float wp = row.weight(p);
    const float wq = row.weight(q);
    const float* gp = args.gram + std::int64_t{p} * args.cols;
    const float* gq = args.gram + std::int64_t{q} * args.cols;
    for (int j = static_cast<int>(threadIdx.x); j < row.n; j += kThreads) {
      row.c[j] = fmaf(-wq, gq[j], fmaf(wp, gp[j], row.c[j]));
    }
    __syncthreads();  // all have read the pair
    if (threadIdx.x == 0) {
      row.mask[p] = 0;
      row.mask[q] = 1;
    }
    __syncthreads();
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void pruned_kernel(const T* weight, const std::uint8_t* mask,
                                                          std::int64_t n, float* pruned) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) pruned[i] = mask[i] != 0 ? 0.0f : to_float(weight[i]);
}

__global__ __launch_bounds__(kThreads) void diagonal_kernel(const float* a, std::int64_t n, float* diagonal) {
  const std::int64_t j = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j < n) diagonal[j] = a[j * n + j];
}

}  // namespace

void take_diagonal(const float* a, std::int64_t n, float* diagonal, cudaStream_t stream) {
  if (n == 0) return;
  diagonal_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream>>>(a, n, diagonal);
  check_launch("take_diagonal");
}

void pruned_part(const void* weight, DType dtype, const std::uint8_t* mask, std::int64_t n, float* pruned,
                 cudaStream_t stream) {
  if (n == 0) return;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    pruned_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream>>>(static_cast<const T*>(weight), mask, n,
                                                                    pruned);
  });
  check_launch("pruned_part");
}

void swap_weights(const SwapsArgs& args, cudaStream_t stream) {
  if (args.rows * args.cols == 0) return;
  with_type(args.dtype, [&](auto zero) {
    swaps_kernel<decltype(zero)><<<static_cast<unsigned>(args.rows), kThreads, 0, stream>>>(args);
  });
  check_launch("swap_weights");
}

}  // namespace swiftprune::cuda
