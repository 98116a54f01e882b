// Up to 64 tokens times a packed weight. A block of threads takes 128 rows, a warp a panel, and walks along a part of
// the columns; the inputs of the columns in hand lie in shared memory for all its warps, so that weights and inputs
// are read from memory once and few times. The blocks of threads that share rows are a cluster: each adds up a part of
// the others' sums.
#pragma once

#include <algorithm>
#include <type_traits>

#include "swiftprune/cuda/sparse/packed_launch.cuh"

namespace swiftprune::cuda {

constexpr int kBatchWarps = 8;
constexpr int kBatchThreads = kBatchWarps * kWarp;
constexpr int kBatchRows = kBatchWarps * kRows;
constexpr int kBatchSumPitch = kBatchRows + 4;  // numbers: no bank conflicts
constexpr int kMostCluster = 8;

inline bool has_batches() {
  static const bool has_clusters = device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9;
  return has_clusters;
}

__device__ __forceinline__ void sync_cluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#endif
}
// A number in the shared memory of a block of the cluster, at the address that it has in this one's.
__device__ __forceinline__ float load_cluster(unsigned address, int rank) {
  float value = 0.0f;
#if __CUDA_ARCH__ >= 900
  unsigned there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(there) : "memory");
#endif
  return value;
}
// Four 8x8 matrices of 16-bit numbers, rows of 16 bytes at the lanes' addresses.
__device__ __forceinline__ void load_matrices(std::uint32_t (&to)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address));
}

// The inputs of kBlocks blocks of columns of up to kTokens tokens in shared memory, a ring of kSlots of them.
template <class T, int kTokens, int kBlocks, int kPitch, int kSlots>
struct BatchInputs {
  static constexpr int kSlotBytes = kTokens * kPitch;
  static constexpr int kBytes = kSlots * kSlotBytes;

  // Begins to copy; columns that do not exist become zero. whole: all do, and rows are aligned.
  static __device__ __forceinline__ void fetch(const CompactArgs& args, int step, std::byte* ring,
                                               bool whole) {
    constexpr int kChunks = kBlocks * static_cast<int>(kCompactBlock) / 8;
    std::byte* const slot = ring + step % kSlots * kSlotBytes;
    const std::int64_t first = std::int64_t{step} * kBlocks * kCompactBlock;
    const T* x = static_cast<const T*>(args.x) + first;
    for (int i = static_cast<int>(threadIdx.x); i < kChunks * static_cast<int>(args.tokens);
         i += kBatchThreads) {
      const int token = i / kChunks;
      const int chunk = i % kChunks;
      const T* source = x + token * args.x_stride + 8 * chunk;
      std::byte* target = slot + token * kPitch + 16 * chunk;
      const std::int64_t left = args.cols - first - 8 * chunk;
      if (whole && left > 0) {
        copy_async(shared_address(target), source);
      } else {
        for (int e = 0; e < 8; ++e)
          reinterpret_cast<T*>(target)[e] = e < left ? source[e] : from_float<T>(0.0f);
      }
    }
  }
};

// Policy: Weight, T, kTokens, kStepBlocks (blocks of columns between two barriers), kPitch and kSlots of the inputs,
// kWarpBytes(weight) of shared memory; made of (weight, panel, first and last block, own shared memory, lane):
// fetch(step) begins to copy what step needs that lies in shared memory; multiply(step, inputs, sum, lane).
template <class Policy>
__global__ __launch_bounds__(kBatchThreads,
                             Policy::kResident) void batch_kernel(typename Policy::Weight weight,
                                                                  CompactArgs args, int blocks, int splits,
                                                                  int warp_bytes, bool whole) {
  using T = typename Policy::T;
  constexpr int kTiles = Policy::kTokens / 8;
  using Inputs = BatchInputs<T, Policy::kTokens, Policy::kStepBlocks, Policy::kPitch, Policy::kSlots>;
  extern __shared__ uint4 dynamic[];
  let_next_start();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int rank = static_cast<int>(blockIdx.x) % splits;
  const int tile = static_cast<int>(blockIdx.x) / splits;
  auto* const ring = reinterpret_cast<std::byte*>(dynamic);
  const int steps = (blocks + Policy::kStepBlocks - 1) / Policy::kStepBlocks;
  const int first = steps * rank / splits;
  const int last = steps * (rank + 1) / splits;
  const int panel = tile * kBatchWarps + warp;
  const bool there = std::int64_t{panel} * kRows < args.rows;
  Policy policy(weight, there ? panel : 0, blocks, first, there ? last : first,
                ring + Inputs::kBytes + warp * warp_bytes, lane);
#pragma unroll
  for (int i = 0; i < Policy::kSlots - 1; ++i) policy.fetch(first + i);
  wait_for_inputs();
#pragma unroll
  for (int i = 0; i < Policy::kSlots - 1; ++i) {
    if (first + i < last) Inputs::fetch(args, first + i, ring, whole);
    commit_copies();  // and, with the first, what fetch() began
  }
  float sum[kTiles][4] = {};
  for (int base = first; base < last; base += Policy::kUnroll) {
#pragma unroll
    for (int i = 0; i < Policy::kUnroll; ++i) {
      const int step = base + i;
      if (step >= last) break;
      wait_copies<Policy::kSlots - 2>();
      __syncthreads();
      if (step + Policy::kSlots - 1 < last) Inputs::fetch(args, step + Policy::kSlots - 1, ring, whole);
      policy.fetch(step + Policy::kSlots - 1);
      commit_copies();
      if (there) policy.multiply(i, step, ring + step % Policy::kSlots * Inputs::kSlotBytes, sum, lane);
    }
  }
  wait_copies<0>();
  __syncthreads();
  auto* const sums = reinterpret_cast<float*>(dynamic);  // [tokens][rows]
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = 8 * j + 2 * (lane % 4) + i % 2;
      sums[token * kBatchSumPitch + warp * kRows + Policy::row_of(lane / 4, i / 2)] = sum[j][i];
    }
  }
  if (splits == 1) {
    __syncthreads();
  } else {
    sync_cluster();
  }
  const int first_row = kBatchRows * rank / splits;
  const int rows = kBatchRows * (rank + 1) / splits - first_row;
  for (int i = static_cast<int>(threadIdx.x); i < rows * static_cast<int>(args.tokens); i += kBatchThreads) {
    const int r = first_row + i % rows;
    const int token = i / rows;
    const std::int64_t row = std::int64_t{tile} * kBatchRows + r;
    if (row >= args.rows) continue;
    const float* own = sums + token * kBatchSumPitch + r;
    float total = 0.0f;
    if (splits == 1) {
      total = *own;
    } else {
#pragma unroll
      for (int q = 0; q < kMostCluster; ++q) {
        if (q < splits) total += load_cluster(shared_address(own), q);
      }
    }
    store_sum<T>(args, Policy::scaled(weight, total, row), token, row);
  }
  if (splits > 1) sync_cluster();  // others may still read this block's sums
}

// How many blocks of threads share rows: as many as a device holds at once. A cluster needs places near each other, of
// which some stay empty.
inline int batch_splits(std::int64_t tiles, int steps, int resident) {
  static const int multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount);
  const std::int64_t places = std::int64_t{9} * multiprocessors * resident / 10;
  return static_cast<int>(std::clamp<std::int64_t>(places / tiles, 1, std::min(kMostCluster, steps)));
}

template <class Policy>
void launch_batch(const typename Policy::Weight& weight, const CompactArgs& args, int warp_bytes,
                  cudaStream_t stream) {
  if (args.tokens == 0 || args.rows == 0) return;
  using Inputs =
      BatchInputs<typename Policy::T, Policy::kTokens, Policy::kStepBlocks, Policy::kPitch, Policy::kSlots>;
  const int blocks = blocks_of(args.cols);
  const std::int64_t tiles = (args.rows + kBatchRows - 1) / kBatchRows;
  const int shared = std::max(Inputs::kBytes + kBatchWarps * warp_bytes,
                              Policy::kTokens * kBatchSumPitch * static_cast<int>(sizeof(float)));
  const int splits =
      batch_splits(tiles, (blocks + Policy::kStepBlocks - 1) / Policy::kStepBlocks, Policy::kResident);
  const bool whole = args.cols % 8 == 0 && args.x_stride % 8 == 0 && is_aligned(args.x);
  launch_early_clusters(batch_kernel<Policy>, dim3(static_cast<unsigned>(tiles * splits)), splits,
                        kBatchThreads, shared, stream, weight, args, blocks, splits, warp_bytes, whole);
  check_launch("a product of a batch of tokens");
}

}  // namespace swiftprune::cuda
