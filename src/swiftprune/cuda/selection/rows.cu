// Exact selection in each row: the k lowest keys, ties from the lower index on (row_search.cuh). The row's
// keys stay in registers, spread over a block's threads; blocks stay for many rows, and the next row is
// copied into shared memory meanwhile.
#include <algorithm>

#include "swiftprune/cuda/selection/row_search.cuh"

namespace swiftprune::cuda {
namespace {

__device__ __forceinline__ void copy_async(void* target, const void* source) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(target));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(source));
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// The common part of both row kernels: rows come through shared memory, two at a time.
template <class T>
struct RowStage {
  Eight<T>* buffer;  // [2][kVectors][threads]
  const T* in;
  int vectors;
  std::int64_t cols;

  __device__ Eight<T>* slot(int s, int v) const {
    return buffer + (s * kVectors + v) * static_cast<int>(blockDim.x) + threadIdx.x;
  }
  __device__ void start(std::int64_t row, int s) const {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int x = v * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x);
      if (x >= vectors) continue;
      const auto* source = reinterpret_cast<const uint4*>(in + row * cols + 8 * x);
      auto* target = reinterpret_cast<uint4*>(slot(s, v));
#pragma unroll
      for (int i = 0; i < static_cast<int>(sizeof(Eight<T>) / 16); ++i) copy_async(target + i, source + i);
    }
  }
};

// kMask: the mask is wanted too. A kernel of its own, because the registers that it takes cost a fifth of the
// speed.
template <class T, int kMaxThreads, bool kMask>
__global__ __launch_bounds__(kMaxThreads) void rows_kernel(PruneRowsArgs args, int uniform_count,
                                                           const std::int32_t* counts, int shift) {
  extern __shared__ uint4 dynamic[];
  __shared__ Scratch scratch;
  const int vectors = static_cast<int>(args.cols / 8);
  const int n = static_cast<int>(args.cols);
  const int threads = static_cast<int>(blockDim.x);
  const RowStage<T> stage{reinterpret_cast<Eight<T>*>(dynamic), static_cast<const T*>(args.in), vectors,
                          args.cols};
  T* out = static_cast<T*>(args.out);
  Guess guess;
  int phase = 0;
  unsigned long long zeros = 0;
  int s = 0;
  if (blockIdx.x < args.rows) stage.start(blockIdx.x, 0);
  commit_copies();
  for (std::int64_t row = blockIdx.x; row < args.rows; row += gridDim.x, s ^= 1) {
    if (row + gridDim.x < args.rows) stage.start(row + gridDim.x, s ^ 1);
    commit_copies();
    wait_copies<1>();  // every thread reads only what it copied itself
    const float row_factor = args.slope != nullptr ? args.row[row] : 0.0f;
    float q[kKeys];
    float sum = 0.0f;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int x = v * threads + static_cast<int>(threadIdx.x);
      if (x >= vectors) {
#pragma unroll
        for (int i = 0; i < 8; ++i) q[8 * v + i] = INFINITY;
        continue;
      }
      const Eight<T> w = *stage.slot(s, v);
      float factor[8];
      if (args.column != nullptr) {
        const auto c = load_eight(args.column + 8 * x);
#pragma unroll
        for (int i = 0; i < 8; ++i) factor[i] = c.v[i];
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) factor[i] = 1.0f;
      }
      if (args.slope != nullptr) {
        const auto c = load_eight(args.slope + 8 * x);
#pragma unroll
        for (int i = 0; i < 8; ++i) factor[i] = fmaf(row_factor, c.v[i], factor[i]);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float key = fabsf(to_float(w.v[i]) * factor[i]);
        sum += key;
        q[8 * v + i] = key;
      }
    }
    sum = block_sum(sum, scratch.sum);
    if (!(sum < INFINITY)) {  // which may be the sum alone
      bool bad = false;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (v * threads + static_cast<int>(threadIdx.x) >= vectors) continue;
#pragma unroll
        for (int i = 0; i < 8; ++i) bad |= !(q[8 * v + i] < INFINITY);
      }
      if (bad) atomicOr(&args.counters->not_finite, 1u);
      if (__syncthreads_or(bad ? 1 : 0) != 0) continue;
    }
    const int k = counts != nullptr ? counts[row] : uniform_count;
    const auto below = [&](std::uint32_t p) { return count_block(count_below(q, p), scratch, phase); };
    const auto gather = [&](std::uint32_t low, std::uint32_t high) { gather_keys(q, low, high, scratch); };
    Cut cut{kInfinityBits, 0};  // k == n: nothing stays
    if (k < n) cut = find_cut(below, gather, scratch, sum, n, k, shift, guess);
    const bool ordinary = cut.ties == 0 && cut.threshold != 0;
    int before[kVectors] = {};
    if (cut.ties > 0) ties_before(q, cut.threshold, scratch, before);
    const float threshold = __uint_as_float(cut.threshold);
    unsigned kept_zeros = 0;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int x = v * threads + static_cast<int>(threadIdx.x);
      if (x >= vectors) continue;
      Eight<T> w = *stage.slot(s, v);
      if (ordinary) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          if (q[8 * v + i] < threshold) w.v[i] = from_float<T>(0.0f);
        }
        if constexpr (kMask) {
          std::uint32_t keep = 0;
#pragma unroll
          for (int i = 0; i < 8; ++i) keep |= (q[8 * v + i] < threshold ? 0u : 1u) << i;
          store_mask(args.mask + row * args.cols + 8 * x, keep);
        }
      } else {
        const std::uint32_t keep = kept_bits(q + 8 * v, cut, before[v]);
        keep_only(w, keep);
        if constexpr (kMask) store_mask(args.mask + row * args.cols + 8 * x, keep);
        if (cut.threshold == 0) {  // only then can a kept weight be zero
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            if (((keep >> i) & 1u) == 0 || to_float(w.v[i]) != 0.0f) continue;
            ++kept_zeros;
            w.v[i] = from_float<T>(0.0f);  // -0 too
          }
        }
      }
      store_eight(out + row * args.cols + 8 * x, w);
    }
    if (threadIdx.x == 0) zeros += static_cast<unsigned long long>(k);
    zeros += kept_zeros;
    __syncthreads();  // the scratch is used again
  }
  if (zeros != 0) {
    atomicAdd(&args.counters->zeros[(blockIdx.x % PruneCounters::kLanes) * 4], zeros);
  }
}

template <int kMaxThreads>
__global__ __launch_bounds__(kMaxThreads) void admm_rows_kernel(AdmmStepArgs args, int uniform_count,
                                                                const std::int32_t* counts) {
  __shared__ Scratch scratch;
  const int vectors = static_cast<int>(args.cols / 8);
  const int n = static_cast<int>(args.cols);
  const int threads = static_cast<int>(blockDim.x);
  Guess guess;
  int phase = 0;
  for (std::int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    float y[kKeys];
    float q[kKeys];
    float sum = 0.0f;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int x = v * threads + static_cast<int>(threadIdx.x);
      Eight<float> w;
      if (x < vectors) w = load_eight(args.y + row * args.cols + 8 * x);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        y[8 * v + i] = x < vectors ? w.v[i] : 0.0f;
        q[8 * v + i] = x < vectors ? fabsf(w.v[i]) : INFINITY;
        sum += x < vectors ? q[8 * v + i] : 0.0f;
      }
    }
    sum = block_sum(sum, scratch.sum);
    const int k = counts != nullptr ? counts[row] : uniform_count;
    const auto below = [&](std::uint32_t p) { return count_block(count_below(q, p), scratch, phase); };
    const auto gather = [&](std::uint32_t low, std::uint32_t high) { gather_keys(q, low, high, scratch); };
    Cut cut{kInfinityBits, 0};
    if (k < n) cut = find_cut(below, gather, scratch, sum, n, k, 0, guess);
    int before[kVectors] = {};
    if (cut.ties > 0) ties_before(q, cut.threshold, scratch, before);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int x = v * threads + static_cast<int>(threadIdx.x);
      if (x >= vectors) continue;
      const std::uint32_t keep = kept_bits(q + 8 * v, cut, before[v]);
      const std::int64_t at = row * args.cols + 8 * x;
      Eight<float> z;
      if (args.result != nullptr) {
#pragma unroll
        for (int i = 0; i < 8; ++i) z.v[i] = ((keep >> i) & 1u) != 0 ? y[8 * v + i] : 0.0f;
        store_eight(args.result + at, z);
        continue;
      }
      const Eight<float> c = load_eight(args.constant + at);
      Eight<__half> t;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const bool kept = ((keep >> i) & 1u) != 0;
        const float value = y[8 * v + i];
        t.v[i] = __float2half_rn(kept ? value : -value);
        z.v[i] = c.v[i] + (kept ? 0.0f : value);
      }
      store_eight(static_cast<__half*>(args.t) + at, t);
      store_eight(args.y + at, z);
    }
    __syncthreads();
  }
}

// Any length and alignment: the keys are made again from the (cached) row for every count. Thread t owns a
// contiguous part, so ties are in index order. out(j, kept) writes column j.
template <class Key, class Out>
__device__ void any_row(const Key& key, const Out& out, int n, int k, int shift, Scratch& scratch,
                        Guess& guess, unsigned int* not_finite) {
  const int threads = static_cast<int>(blockDim.x);
  float sum = 0.0f;
  bool bad = false;
  for (int j = static_cast<int>(threadIdx.x); j < n; j += threads) {
    const float q = key(j);
    sum += q;
    bad |= !(q < INFINITY);
  }
  sum = block_sum(sum, scratch.sum);
  if (__syncthreads_or(bad ? 1 : 0) != 0) {
    if (bad && not_finite != nullptr) atomicOr(not_finite, 1u);
    return;
  }
  int phase = 0;
  const auto below = [&](std::uint32_t p) {
    int count = 0;
    for (int j = static_cast<int>(threadIdx.x); j < n; j += threads)
      count += __float_as_uint(key(j)) < p ? 1 : 0;
    return count_block(count, scratch, phase);
  };
  const auto gather = [&](std::uint32_t low, std::uint32_t high) {
    start_gather(scratch);
    for (int j = static_cast<int>(threadIdx.x); j < n; j += threads) {
      const std::uint32_t bits = __float_as_uint(key(j));
      if (bits - low < high - low) add_candidate(scratch, bits);
    }
    __syncthreads();
  };
  Cut cut{kInfinityBits, 0};
  if (k < n) cut = find_cut(below, gather, scratch, sum, n, k, shift, guess);
  const int part = (n + threads - 1) / threads;
  const int first = min(n, part * static_cast<int>(threadIdx.x));
  const int last = min(n, first + part);
  int equal = 0;
  if (cut.ties > 0) {
    for (int j = first; j < last; ++j) equal += __float_as_uint(key(j)) == cut.threshold ? 1 : 0;
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int scan = equal;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int other = __shfl_up_sync(kFullWarp, scan, offset);
    if (lane >= offset) scan += other;
  }
  if (lane == kWarp - 1) scratch.ties[threadIdx.x / kWarp][0] = static_cast<std::uint32_t>(scan);
  __syncthreads();
  int rank = scan - equal;
  for (int w = 0; w < static_cast<int>(threadIdx.x) / kWarp; ++w)
    rank += static_cast<int>(scratch.ties[w][0]);
  for (int j = first; j < last; ++j) {
    const std::uint32_t bits = __float_as_uint(key(j));
    bool kept = bits >= cut.threshold;
    if (bits == cut.threshold) kept = rank++ >= cut.ties;
    out(j, kept);
  }
  __syncthreads();
}

constexpr int kAnyThreads = 512;

template <class T>
__global__ __launch_bounds__(kAnyThreads) void any_rows_kernel(PruneRowsArgs args, int uniform_count,
                                                               const std::int32_t* counts, int shift) {
  __shared__ Scratch scratch;
  Guess guess;
  unsigned zeros = 0;
  for (std::int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const T* in = static_cast<const T*>(args.in) + row * args.cols;
    T* out = static_cast<T*>(args.out) + row * args.cols;
    const float row_factor = args.slope != nullptr ? args.row[row] : 0.0f;
    const auto key = [&](int j) {
      float factor = args.column != nullptr ? args.column[j] : 1.0f;
      if (args.slope != nullptr) factor = fmaf(row_factor, args.slope[j], factor);
      return fabsf(to_float(in[j]) * factor);
    };
    const auto write = [&](int j, bool kept) {
      const bool zero = !kept || to_float(in[j]) == 0.0f;
      zeros += zero ? 1u : 0u;
      if (args.mask != nullptr) args.mask[row * args.cols + j] = kept ? 1 : 0;
      out[j] = zero ? from_float<T>(0.0f) : in[j];
    };
    any_row(key, write, static_cast<int>(args.cols), counts != nullptr ? counts[row] : uniform_count, shift,
            scratch, guess, &args.counters->not_finite);
  }
  zeros = __reduce_add_sync(kFullWarp, zeros);
  if (threadIdx.x % kWarp == 0) add_zeros(args.counters, zeros);
}

__global__ __launch_bounds__(kAnyThreads) void any_admm_rows_kernel(AdmmStepArgs args, int uniform_count,
                                                                    const std::int32_t* counts) {
  __shared__ Scratch scratch;
  Guess guess;
  for (std::int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    float* y = args.y + row * args.cols;
    const auto key = [&](int j) { return fabsf(y[j]); };
    const auto write = [&](int j, bool kept) {
      const std::int64_t at = row * args.cols + j;
      const float value = y[j];
      if (args.result != nullptr) {
        args.result[at] = kept ? value : 0.0f;
        return;
      }
      static_cast<__half*>(args.t)[at] = __float2half_rn(kept ? value : -value);
      y[j] = args.constant[at] + (kept ? 0.0f : value);
    };
    any_row(key, write, static_cast<int>(args.cols), counts != nullptr ? counts[row] : uniform_count, 0,
            scratch, guess, nullptr);
  }
}

int multiprocessors() {
  int device = 0;
  int count = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
    check_launch("device attributes");
  }
  return std::max(1, count);
}

// As many blocks as run at once: each stays for many rows.
template <class Kernel>
unsigned resident_blocks(Kernel kernel, int threads, int shared_bytes, std::int64_t rows) {
  int blocks = 0;
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) !=
          cudaSuccess ||
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes) != cudaSuccess) {
    check_launch("occupancy");
  }
  return static_cast<unsigned>(
      std::min<std::int64_t>(rows, std::int64_t{std::max(1, blocks)} * multiprocessors()));
}

// Threads that hold a row of `vectors` in registers: whole warps; 0 when it does not fit.
int threads_for(std::int64_t vectors) {
  const std::int64_t threads = (vectors + kVectors - 1) / kVectors;
  return threads > 1024
             ? 0
             : static_cast<int>(std::max<std::int64_t>(kWarp, (threads + kWarp - 1) / kWarp * kWarp));
}

template <class T, int kMaxThreads>
void launch_rows(const PruneRowsArgs& args, int count, const std::int32_t* counts, int shift, int threads,
                 cudaStream_t stream) {
  const int shared_bytes = 2 * kVectors * threads * static_cast<int>(sizeof(Eight<T>));
  const auto kernel =
      args.mask != nullptr ? rows_kernel<T, kMaxThreads, true> : rows_kernel<T, kMaxThreads, false>;
  const unsigned blocks = resident_blocks(kernel, threads, shared_bytes, args.rows);
  kernel<<<blocks, static_cast<unsigned>(threads), static_cast<std::size_t>(shared_bytes), stream>>>(
      args, count, counts, shift);
}

template <class T>
bool launch_register_rows(const PruneRowsArgs& args, int count, const std::int32_t* counts, int shift,
                          cudaStream_t stream) {
  constexpr std::int64_t kSharedBytes = 220 * 1024;  // what a block may have on sm_90; less on sm_80
  const int threads =
      args.cols % 8 == 0 && is_aligned(args.in) && is_aligned(args.out) ? threads_for(args.cols / 8) : 0;
  if (threads == 0) return false;
  int device = 0;
  int limit = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const std::int64_t bytes =
      std::int64_t{2} * kVectors * threads * static_cast<std::int64_t>(sizeof(Eight<T>));
  if (bytes > std::min<std::int64_t>(kSharedBytes, limit - 2048)) return false;
  if (threads <= 256) {
    launch_rows<T, 256>(args, count, counts, shift, threads, stream);
  } else if (threads <= 512) {
    launch_rows<T, 512>(args, count, counts, shift, threads, stream);
  } else {
    launch_rows<T, 1024>(args, count, counts, shift, threads, stream);
  }
  return true;
}

template <int kMaxThreads>
void launch_admm_rows(const AdmmStepArgs& args, int count, const std::int32_t* counts, int threads,
                      cudaStream_t stream) {
  const auto kernel = admm_rows_kernel<kMaxThreads>;
  const unsigned blocks = resident_blocks(kernel, threads, 0, args.rows);
  kernel<<<blocks, static_cast<unsigned>(threads), 0, stream>>>(args, count, counts);
}

}  // namespace

void prune_rows(const PruneRowsArgs& args, std::int64_t count, const std::int32_t* counts,
                cudaStream_t stream) {
  if (args.rows * args.cols == 0) return;
  with_type(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    // Without factors the keys are |w|, whose bits end in zeros.
    const bool plain = args.column == nullptr && args.slope == nullptr;
    const int shift = !plain || args.dtype == DType::kF32 ? 0 : args.dtype == DType::kBF16 ? 16 : 13;
    const int k = static_cast<int>(count);
    if (launch_register_rows<T>(args, k, counts, shift, stream)) return;
    const auto kernel = any_rows_kernel<T>;
    const unsigned blocks = resident_blocks(kernel, kAnyThreads, 0, args.rows);
    kernel<<<blocks, kAnyThreads, 0, stream>>>(args, k, counts, shift);
  });
  check_launch("prune_rows");
}

void admm_step_rows(const AdmmStepArgs& args, std::int64_t count, const std::int32_t* counts,
                    cudaStream_t stream) {
  if (args.rows * args.cols == 0) return;
  const int k = static_cast<int>(count);
  const int threads = args.cols % 8 == 0 ? threads_for(args.cols / 8) : 0;
  if (threads == 0 || threads > 512) {
    const unsigned blocks = resident_blocks(any_admm_rows_kernel, kAnyThreads, 0, args.rows);
    any_admm_rows_kernel<<<blocks, kAnyThreads, 0, stream>>>(args, k, counts);
  } else if (threads <= 256) {
    launch_admm_rows<256>(args, k, counts, threads, stream);
  } else {
    launch_admm_rows<512>(args, k, counts, threads, stream);
  }
  check_launch("admm_step_rows");
}

}  // namespace swiftprune::cuda
