// Few tokens times a dense weight, the counterpart of packed.cu: a warp takes 64-column blocks of a panel of 16 rows as
// they lie in memory, and the warps of a block of threads share the columns of one panel. The product reads the weight
// once and starts to before its inputs are there.
#include "swiftprune/cuda/sparse/packed_launch.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kDensePanelWarps = 8;  // of a block of threads
constexpr int kDenseBlocks = 2;      // of threads, of a multiprocessor, by their registers
constexpr int kDenseAhead = 4;       // blocks in registers

// A lane's part of one block: eight columns of each half of rows g and g + 8. Which columns a product takes for its
// first and second eight is free as long as the inputs follow: a lane's are neighbours.
struct DenseBlock {
  uint4 halves[2][2];  // [half][row]
};

// 16 bytes that are read once, where `there`. Without a branch, so that reads stand before what waits for earlier ones.
__device__ __forceinline__ void load_if(uint4& to, const void* from, bool there) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.u32 p, %5, 0;\n@p ld.global.cs.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];\n}"
      : "+r"(to.x), "+r"(to.y), "+r"(to.z), "+r"(to.w)
      : "l"(from), "r"(static_cast<std::uint32_t>(there)));
}

template <class T>
__global__ __launch_bounds__(kDensePanelWarps* kWarp,
                             kDenseBlocks) void dense_kernel(const T* weight, std::int64_t stride,
                                                             CompactArgs args, int blocks, int warp_bytes) {
  extern __shared__ uint4 dynamic[];
  let_next_start();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  const int first = blocks * warp / warps;
  const int last = blocks * (warp + 1) / warps;  // beyond first: warps_per_panel() gives each a block
  const std::int64_t top = std::int64_t{blockIdx.x} * kRows + g;
  const T* rows[2];  // of rows that do not exist the last one: write_sums() drops them
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const std::int64_t row = top + 8 * r < args.rows ? top + 8 * r : args.rows - 1;
    rows[r] = weight + row * stride + 8 * t;
  }
  const auto fetch = [&](DenseBlock& block, int b) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int r = 0; r < 2; ++r)
        load_if(block.halves[half][r], rows[r] + kCompactBlock * b + 32 * half, b < last);
    }
  };
  DenseBlock held[kDenseAhead] = {};
#pragma unroll
  for (int i = 0; i < kDenseAhead; ++i) fetch(held[i], first + i);
  wait_for_inputs();

  const T* x = static_cast<const T*>(args.x) + token_of(args, 0, g) * args.x_stride + 8 * t;
  float sum[1][4] = {};
  const auto multiply_block = [&](int b, const DenseBlock& block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 upper = block.halves[half][0];
      const uint4 lower = block.halves[half][1];
      const std::uint32_t a[2][4] = {{upper.x, lower.x, upper.y, lower.y},
                                     {upper.z, lower.z, upper.w, lower.w}};
      const uint4 in = *reinterpret_cast<const uint4*>(x + kCompactBlock * b + 32 * half);
      multiply(sum[0], a[0], in.x, in.y, T{});
      multiply(sum[0], a[1], in.z, in.w, T{});
    }
  };
  for (int b = first; b < last; b += kDenseAhead) {
#pragma unroll
    for (int i = 0; i < kDenseAhead; ++i) {
      if (b + i >= last) break;
      multiply_block(b + i, held[i]);
      fetch(held[i], b + i + kDenseAhead);
    }
  }
  auto* const shared = reinterpret_cast<std::byte*>(dynamic);
  keep_sums<1>(sum, reinterpret_cast<float*>(shared + warp * warp_bytes), g, g + 8, lane);
  __syncthreads();
  write_sums<T, 1>(args, shared, warp_bytes);
}

}  // namespace

bool multiply_few(const void* weight, std::int64_t stride, const CompactArgs& args, cudaStream_t stream) {
  const bool takes = args.tokens <= kMostDenseTokens && args.dtype != DType::kF32 &&
                     (args.y_dtype == args.dtype || args.y_dtype == DType::kF32) &&
                     args.cols % kCompactBlock == 0 && stride % 8 == 0 && args.x_stride % 8 == 0 &&
                     is_aligned(weight) && is_aligned(args.x);
  if (!takes) return false;
  if (args.tokens == 0 || args.rows == 0) return true;
  const int blocks = blocks_of(args.cols);
  const std::int64_t panels = panels_of(args.rows);
  constexpr int kBytes = kSumBytes<1>;
  const int warps = std::min(kDensePanelWarps, blocks);
  const auto launch = [&](auto zero) {
    using T = decltype(zero);
    launch_panels(dense_kernel<T>, panels, warps, warps * kBytes, stream, static_cast<const T*>(weight),
                  stride, args, blocks, kBytes);
  };
  args.dtype == DType::kF16 ? launch(__half{}) : launch(__nv_bfloat16{});
  return true;
}

}  // namespace swiftprune::cuda
