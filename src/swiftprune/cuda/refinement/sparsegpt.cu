// SparseGPT's column loop inside a block of columns (refinement/sparsegpt.h): a warp a row, its columns in
// registers, the block's factor in shared memory. What the block does to the columns behind it is one product
// of the caller.
#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kEach = static_cast<int>(kSparseGptBlock) / kWarp;  // columns of a lane: lane + 32·i

template <class T>
__global__ __launch_bounds__(kThreads) void start_kernel(const T* weight, const float* gram,
                                                         std::int64_t rows, std::int64_t cols, float* w) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= rows * cols) return;
  const std::int64_t j = i % cols;
  w[i] = gram[j * cols + j] == 0.0f ? 0.0f : to_float(weight[i]);
}

__global__ __launch_bounds__(kThreads) void block_kernel(SparseGptArgs args, float* column, float* keys) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < args.size) column[i] = 1.0f / args.factor[i * args.factor_stride + i];
  if (i >= args.rows * args.size) return;
  keys[i] = args.w[i / args.size * args.stride + i % args.size];
}

__global__ __launch_bounds__(kThreads) void compensate_kernel(SparseGptArgs args) {
  extern __shared__ float shared[];
  const int size = args.size;
  float* const factor = shared;                            // U, row j of kSparseGptBlock
  float* const inverse = factor + size * kSparseGptBlock;  // 1/U_jj
  float* const keys = inverse + kSparseGptBlock;           // [warps, 32] of the group in hand
  for (int i = static_cast<int>(threadIdx.x); i < size * size; i += kThreads) {
    factor[i / size * kSparseGptBlock + i % size] = args.factor[i / size * args.factor_stride + i % size];
  }
  for (int j = static_cast<int>(threadIdx.x); j < size; j += kThreads) {
    inverse[j] = 1.0f / args.factor[j * args.factor_stride + j];
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  float* const own_keys = keys + warp * kWarp;
  for (std::int64_t r = std::int64_t{blockIdx.x} * kWarps + warp; r < args.rows;
       r += std::int64_t{gridDim.x} * kWarps) {
    float w[kEach];
    float errors[kEach] = {};
    std::uint32_t kept[kEach];  // bit l: column l + 32·i
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int j = lane + kWarp * i;
      w[i] = j < size ? args.w[r * args.stride + j] : 0.0f;
      kept[i] = __ballot_sync(kFullWarp, args.mask != nullptr && j < size && args.mask[r * size + j] != 0);
    }
#pragma unroll
    for (int part = 0; part < kEach; ++part) {
      for (int l = 0; l < kWarp; ++l) {
        const int j = part * kWarp + l;
        if (j >= size) break;
        if (args.group > 0 && j % args.group == 0) {
          // The group's keys |w|/U_jj; the lowest go, ties from the lower index on.
          float key = 0.0f;
#pragma unroll
          for (int i = 0; i < kEach; ++i) {
            const int at = lane + kWarp * i - j;
            if (at >= 0 && at < args.group) own_keys[at] = fabsf(w[i] * inverse[j + at]);
          }
          __syncwarp();
          int before = 0;
          if (lane < args.group) {
            key = own_keys[lane];
            for (int b = 0; b < args.group; ++b) {
              before += own_keys[b] < key || (own_keys[b] == key && b < lane) ? 1 : 0;
            }
          }
          const std::uint32_t keep =
              __ballot_sync(kFullWarp, lane < args.group && before >= args.group - args.kept);
          const std::uint64_t bits = std::uint64_t{keep} << l;  // a group may reach into the next part
          kept[part] |= static_cast<std::uint32_t>(bits);
          if (part + 1 < kEach)
            kept[part + 1 < kEach ? part + 1 : part] |= static_cast<std::uint32_t>(bits >> 32);
          __syncwarp();
        }
        if (((kept[part] >> l) & 1u) != 0) continue;
        const float error = __shfl_sync(kFullWarp, w[part], l) * inverse[j];
        if (lane == l) {
          errors[part] = error;
          w[part] = 0.0f;
        }
        const float* row = factor + j * kSparseGptBlock;
#pragma unroll
        for (int i = part; i < kEach; ++i) {
          const int k = lane + kWarp * i;
          if (k > j && k < size) w[i] = fmaf(-error, row[k], w[i]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int j = lane + kWarp * i;
      if (j >= size) continue;
      args.w[r * args.stride + j] = w[i];
      args.errors[r * size + j] = errors[i];
    }
  }
}

}  // namespace

void sparsegpt_start(const void* weight, DType dtype, const float* gram, std::int64_t rows, std::int64_t cols,
                     float* w, cudaStream_t stream) {
  if (rows * cols == 0) return;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    start_kernel<<<blocks_for(rows * cols, kThreads), kThreads, 0, stream>>>(static_cast<const T*>(weight),
                                                                             gram, rows, cols, w);
  });
  check_launch("sparsegpt_start");
}

void sparsegpt_block(const SparseGptArgs& args, float* column, float* keys, cudaStream_t stream) {
  if (args.rows * args.size == 0) return;
  block_kernel<<<blocks_for(args.rows * args.size, kThreads), kThreads, 0, stream>>>(args, column, keys);
  check_launch("sparsegpt_block");
}

void sparsegpt_compensate(const SparseGptArgs& args, cudaStream_t stream) {
  if (args.rows * args.size == 0) return;
  constexpr std::int64_t kMostBlocks = 512;  // each loads the factor once
  const std::int64_t blocks = (args.rows + kWarps - 1) / kWarps;
  const auto bytes = static_cast<int>(((args.size + 1) * kSparseGptBlock + kThreads) *
                                      static_cast<std::int64_t>(sizeof(float)));
  cudaFuncSetAttribute(compensate_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  compensate_kernel<<<static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks), kThreads,
                      static_cast<std::size_t>(bytes), stream>>>(args);
  check_launch("sparsegpt_compensate");
}

}  // namespace swiftprune::cuda
