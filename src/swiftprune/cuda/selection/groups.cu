// n:m selection: each thread ranks whole groups in registers, so the weights are read and written once.
#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRowsPerThread = 4;  // in flight together
constexpr int kBatches = 2;        // of rows a thread; the column factors are read once for all
constexpr int kMaxGroup = 32;

// Bits of the n largest of m keys; equal keys: the higher index is kept.
template <int kM>
__device__ __forceinline__ std::uint32_t keep_largest(const float* key, int n) {
  int before[kM] = {};
#pragma unroll
  for (int a = 0; a < kM; ++a) {
#pragma unroll
    for (int b = a + 1; b < kM; ++b) {
      const int first = key[a] <= key[b] ? 1 : 0;  // a is pruned sooner than b
      before[b] += first;
      before[a] += 1 - first;
    }
  }
  std::uint32_t keep = 0;
#pragma unroll
  for (int a = 0; a < kM; ++a) keep |= (before[a] >= kM - n ? 1u : 0u) << a;
  return keep;
}

// The number of zeros and whether a key was not finite, once a block.
__device__ __forceinline__ void report(PruneCounters* counters, unsigned zeros, bool bad) {
  __shared__ unsigned total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  zeros = __reduce_add_sync(kFullWarp, zeros);
  if (threadIdx.x % kWarp == 0 && zeros != 0) atomicAdd(&total, zeros);
  if (bad) atomicOr(&counters->not_finite, 1u);
  __syncthreads();
  if (threadIdx.x == 0) add_zeros(counters, total);
}

template <class T, int kM>
__global__ __launch_bounds__(kThreads) void groups_kernel(PruneRowsArgs args, int n) {
  const int x = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  const std::int64_t vectors = args.cols / 8;
  const std::int64_t block_row = std::int64_t{blockIdx.y} * kRowsPerThread * kBatches;
  unsigned zeros = 0;
  bool bad = false;
  if (x < vectors) {
    float column[8];
    float slope[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      column[i] = args.column != nullptr ? args.column[8 * x + i] : 1.0f;
      slope[i] = args.slope != nullptr ? args.slope[8 * x + i] : 0.0f;
    }
    const T* in = static_cast<const T*>(args.in);
    T* out = static_cast<T*>(args.out);
#pragma unroll
    for (int batch = 0; batch < kBatches; ++batch) {
      const std::int64_t first_row = block_row + batch * kRowsPerThread;
      Eight<T> w[kRowsPerThread];
#pragma unroll
      for (int r = 0; r < kRowsPerThread; ++r) {
        if (first_row + r < args.rows) w[r] = load_eight(in + (first_row + r) * args.cols + 8 * x);
      }
#pragma unroll
      for (int r = 0; r < kRowsPerThread; ++r) {
        if (first_row + r >= args.rows) break;
        const float row = args.slope != nullptr ? args.row[first_row + r] : 0.0f;
        float key[8];
        float sum = 0.0f;
        float least = INFINITY;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float factor = args.slope != nullptr ? fmaf(row, slope[i], column[i]) : column[i];
          key[i] = fabsf(to_float(w[r].v[i]) * factor);
          sum += key[i];
          least = fminf(least, key[i]);
        }
        std::uint32_t keep = 0;
#pragma unroll
        for (int g = 0; g < 8; g += kM) keep |= keep_largest<kM>(key + g, n) << g;
        keep_only(w[r], keep);
        if (args.mask != nullptr) store_mask(args.mask + (first_row + r) * args.cols + 8 * x, keep);
        zeros += 8 - n * (8 / kM);
        if (!(least > 0.0f && sum < INFINITY)) {  // rare: a kept weight may be zero, a key not finite
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            bad |= !(key[i] < INFINITY);
            if (((keep >> i) & 1u) == 0 || to_float(w[r].v[i]) != 0.0f) continue;
            ++zeros;
            w[r].v[i] = from_float<T>(0.0f);  // a kept -0 too, as in all written files
          }
        }
        store_eight(out + (first_row + r) * args.cols + 8 * x, w[r]);
      }
    }
  }
  report(args.counters, zeros, bad);
}

// Any m and alignment: a thread a group.
template <class T>
__global__ __launch_bounds__(kThreads) void any_groups_kernel(PruneRowsArgs args, int n, int m) {
  const std::int64_t groups = args.cols / m;
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  unsigned zeros = 0;
  bool bad = false;
  if (index < args.rows * groups) {
    const std::int64_t r = index / groups;
    const std::int64_t first = index % groups * m;
    const T* in = static_cast<const T*>(args.in) + r * args.cols + first;
    T* out = static_cast<T*>(args.out) + r * args.cols + first;
    float key[kMaxGroup];
    std::uint32_t kept = 0;
    for (int a = 0; a < m; ++a) {
      float factor = args.column != nullptr ? args.column[first + a] : 1.0f;
      if (args.slope != nullptr) factor = fmaf(args.row[r], args.slope[first + a], factor);
      key[a] = fabsf(to_float(in[a]) * factor);
      bad |= !(key[a] * 0.0f == 0.0f);
    }
    for (int a = 0; a < m; ++a) {
      int before = 0;
      for (int b = 0; b < m; ++b) before += key[b] < key[a] || (key[b] == key[a] && b < a) ? 1 : 0;
      if (args.mask != nullptr) args.mask[r * args.cols + first + a] = before >= m - n ? 1 : 0;
      if (before >= m - n && to_float(in[a]) != 0.0f) {
        kept |= 1u << a;
      } else {
        ++zeros;
      }
    }
    for (int a = 0; a < m; ++a) out[a] = (kept >> a & 1u) != 0 ? in[a] : from_float<T>(0.0f);
  }
  report(args.counters, zeros, bad);
}

template <int kM>
__global__ __launch_bounds__(kThreads) void admm_groups_kernel(AdmmStepArgs args, int n) {
  const std::int64_t index = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * 8;
  if (index >= args.rows * args.cols) return;
  Eight<float> y = load_eight(args.y + index);
  float key[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) key[i] = fabsf(y.v[i]);
  std::uint32_t keep = 0;
#pragma unroll
  for (int g = 0; g < 8; g += kM) keep |= keep_largest<kM>(key + g, n) << g;
  if (args.result != nullptr) {
    keep_only(y, keep);
    store_eight(args.result + index, y);
    return;
  }
  const Eight<float> c = load_eight(args.constant + index);
  Eight<__half> t;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const bool kept = ((keep >> i) & 1u) != 0;
    t.v[i] = __float2half_rn(kept ? y.v[i] : -y.v[i]);
    y.v[i] = c.v[i] + (kept ? 0.0f : y.v[i]);
  }
  store_eight(static_cast<__half*>(args.t) + index, t);
  store_eight(args.y + index, y);
}

__global__ __launch_bounds__(kThreads) void any_admm_groups_kernel(AdmmStepArgs args, int n, int m) {
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t first = index * m;
  if (first >= args.rows * args.cols) return;
  float y[kMaxGroup];
  for (int a = 0; a < m; ++a) y[a] = args.y[first + a];
  for (int a = 0; a < m; ++a) {
    int before = 0;
    for (int b = 0; b < m; ++b) {
      before += fabsf(y[b]) < fabsf(y[a]) || (fabsf(y[b]) == fabsf(y[a]) && b < a) ? 1 : 0;
    }
    const bool kept = before >= m - n;
    if (args.result != nullptr) {
      args.result[first + a] = kept ? y[a] : 0.0f;
      continue;
    }
    static_cast<__half*>(args.t)[first + a] = __float2half_rn(kept ? y[a] : -y[a]);
    args.y[first + a] = args.constant[first + a] + (kept ? 0.0f : y[a]);
  }
}

}  // namespace

void prune_groups(const PruneRowsArgs& args, int n, int m, cudaStream_t stream) {
  if (args.rows * args.cols == 0) return;
  const bool vectors =
      args.cols % 8 == 0 && is_aligned(args.in) && is_aligned(args.out) && (m == 2 || m == 4 || m == 8);
  with_type(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (!vectors) {
      any_groups_kernel<T>
          <<<blocks_for(args.rows * (args.cols / m), kThreads), kThreads, 0, stream>>>(args, n, m);
      return;
    }
    const dim3 grid(blocks_for(args.cols / 8, kThreads), 1);
    constexpr std::int64_t kMaxBlocksY = 65535;  // of a grid
    constexpr std::int64_t kBlockRows = std::int64_t{kRowsPerThread} * kBatches;
    const std::int64_t rows_a_launch = kMaxBlocksY * kBlockRows;
    for (std::int64_t first = 0; first < args.rows; first += rows_a_launch) {
      PruneRowsArgs part = args;
      part.rows = args.rows - first < rows_a_launch ? args.rows - first : rows_a_launch;
      part.in = static_cast<const T*>(args.in) + first * args.cols;
      part.out = static_cast<T*>(args.out) + first * args.cols;
      if (args.row != nullptr) part.row = args.row + first;
      if (args.mask != nullptr) part.mask = args.mask + first * args.cols;
      const dim3 blocks(grid.x, static_cast<unsigned>((part.rows + kBlockRows - 1) / kBlockRows));
      if (m == 2) groups_kernel<T, 2><<<blocks, kThreads, 0, stream>>>(part, n);
      if (m == 4) groups_kernel<T, 4><<<blocks, kThreads, 0, stream>>>(part, n);
      if (m == 8) groups_kernel<T, 8><<<blocks, kThreads, 0, stream>>>(part, n);
    }
  });
  check_launch("prune_groups");
}

void admm_step_groups(const AdmmStepArgs& args, int n, int m, cudaStream_t stream) {
  const std::int64_t numel = args.rows * args.cols;
  if (numel == 0) return;
  const bool vectors = args.cols % 8 == 0 && (m == 2 || m == 4 || m == 8);
  if (!vectors) {
    any_admm_groups_kernel<<<blocks_for(numel / m, kThreads), kThreads, 0, stream>>>(args, n, m);
  } else if (m == 2) {
    admm_groups_kernel<2><<<blocks_for(numel / 8, kThreads), kThreads, 0, stream>>>(args, n);
  } else if (m == 4) {
    admm_groups_kernel<4><<<blocks_for(numel / 8, kThreads), kThreads, 0, stream>>>(args, n);
  } else {
    admm_groups_kernel<8><<<blocks_for(numel / 8, kThreads), kThreads, 0, stream>>>(args, n);
  }
  check_launch("admm_step_groups");
}

}  // namespace swiftprune::cuda
