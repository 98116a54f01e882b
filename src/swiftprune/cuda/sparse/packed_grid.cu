// Few tokens times codes of 4 bits on a grid, and their expansion. As in packed.cu a warp turns 64-column blocks of a
// panel of 16 rows into fragments of tensor core products in registers; the fragments hold the codes less their zero
// point, which are exact in 16 bits, and the scale of a group multiplies its sums in float.
#include "swiftprune/cuda/sparse/packed_launch.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kGridAhead = 4;   // blocks in registers
constexpr int kGridWarps = 24;  // of a multiprocessor, by their registers

// Two codes in the low bits of 16-bit words as numbers of T, each with `offset` on top: kMagic | code is exact.
template <class T>
inline constexpr std::uint32_t kMagic = 0x43004300u;  // 128
template <>
inline constexpr std::uint32_t kMagic<__half> = 0x64006400u;  // 1024
template <class T>
__device__ __forceinline__ std::uint32_t less(std::uint32_t pair, std::uint32_t offset);
template <>
__device__ __forceinline__ std::uint32_t less<__nv_bfloat16>(std::uint32_t pair, std::uint32_t offset) {
  const __nv_bfloat162 value = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&pair),
                                       *reinterpret_cast<const __nv_bfloat162*>(&offset));
  return *reinterpret_cast<const std::uint32_t*>(&value);
}
template <>
__device__ __forceinline__ std::uint32_t less<__half>(std::uint32_t pair, std::uint32_t offset) {
  const __half2 value =
      __hsub2(*reinterpret_cast<const __half2*>(&pair), *reinterpret_cast<const __half2*>(&offset));
  return *reinterpret_cast<const std::uint32_t*>(&value);
}

// Pair q of a word of eight codes, less the zero point (kMagic | zero, twice).
template <class T>
__device__ __forceinline__ std::uint32_t code_pair(std::uint32_t word, int q, std::uint32_t zero) {
  return less<T>((word >> (4 * q) & 0x000f000fu) | kMagic<T>, zero);
}

// Scales and zero points of one group of a panel, of a lane's rows 2g and 2g + 1.
struct GroupOfRows {
  __half2 scales;
  std::uint32_t zeros[2];
};
template <class T>
__device__ __forceinline__ GroupOfRows load_group(const GridWeight& weight, std::int64_t panel, int group,
                                                  int g) {
  const std::int64_t at = (panel * weight.groups + group) * (kRows / 2) + g;
  GroupOfRows result;
  result.scales = reinterpret_cast<const __half2*>(weight.scales)[at];
  std::uint32_t two = weight.middle * 0x0101u;
  if (weight.zeros != nullptr) two = reinterpret_cast<const std::uint16_t*>(weight.zeros)[at];
  result.zeros[0] = kMagic<T> | (two & 0xffu) * 0x00010001u;
  result.zeros[1] = kMagic<T> | (two >> 8) * 0x00010001u;
  return result;
}

// kHalves: parts of a block with scales of their own. kWhole: all columns exist and rows of x are aligned.
template <class T, int kTiles, bool kWhole, int kHalves>
__global__ __launch_bounds__(kMostWarps* kWarp) void grid_kernel(GridWeight weight, CompactArgs args,
                                                                 int blocks, int warp_bytes) {
  extern __shared__ uint4 dynamic[];
  let_next_start();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  auto* const shared = reinterpret_cast<std::byte*>(dynamic);
  const int first = blocks * warp / warps;
  const int last = blocks * (warp + 1) / warps;
  const std::int64_t panel = blockIdx.x;
  uint4 codes[kGridAhead];
  const auto fetch = [&](int slot, int b) {
    codes[slot] = __ldcs(weight.codes + (panel * blocks + b) * kWarp + lane);
  };
#pragma unroll
  for (int i = 0; i < kGridAhead; ++i) {
    if (first + i < last) fetch(i, first + i);
  }
  wait_for_inputs();

  const T* x[kTiles];
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    x[j] = static_cast<const T*>(args.x) + token_of(args, j, g) * args.x_stride + 8 * t;
  }
  // x[0 .. 7] of a half of block b, of which those beyond the last column are zero.
  const auto inputs_of = [&](const T* from, int b, int half) {
    const int column = static_cast<int>(kCompactBlock) * b + 32 * half;
    if constexpr (kWhole) {
      return *reinterpret_cast<const uint4*>(from + column);
    } else {
      const int left = static_cast<int>(args.cols) - column - 8 * t;
      const auto* bits = reinterpret_cast<const std::uint16_t*>(from + column);
      std::uint32_t words[4];
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t low = 2 * i < left ? bits[2 * i] : 0, high = 2 * i + 1 < left ? bits[2 * i + 1] : 0;
        words[i] = low | high << 16;
      }
      return make_uint4(words[0], words[1], words[2], words[3]);
    }
  };
  float sum[kTiles][4] = {};
  for (int base = first; base < last; base += kGridAhead) {
#pragma unroll
    for (int i = 0; i < kGridAhead; ++i) {
      const int b = base + i;
      if (b >= last) break;
      uint4 inputs[kTiles][2];
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        inputs[j][0] = inputs_of(x[j], b, 0);
        inputs[j][1] = inputs_of(x[j], b, 1);
      }
      GroupOfRows group[kHalves];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) group[h] = load_group<T>(weight, panel, weight.group_of(b, h), g);
      const uint4 word = codes[i];
      if (b + kGridAhead < last) fetch(i, b + kGridAhead);
      const std::uint32_t rows[2][2] = {{word.x, word.z}, {word.y, word.w}};  // of a half: 2g, 2g + 1
      float part[kTiles][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const GroupOfRows& own = group[half % kHalves];
        if (half == 0 || kHalves == 2) {
#pragma unroll
          for (int j = 0; j < kTiles; ++j) part[j][0] = part[j][1] = part[j][2] = part[j][3] = 0.0f;
        }
#pragma unroll
        for (int f = 0; f < 2; ++f) {
          const std::uint32_t a[4] = {code_pair<T>(rows[half][0], 2 * f, own.zeros[0]),
                                      code_pair<T>(rows[half][1], 2 * f, own.zeros[1]),
                                      code_pair<T>(rows[half][0], 2 * f + 1, own.zeros[0]),
                                      code_pair<T>(rows[half][1], 2 * f + 1, own.zeros[1])};
#pragma unroll
          for (int j = 0; j < kTiles; ++j) {
            const uint4& in = inputs[j][half];
            multiply(part[j], a, f == 0 ? in.x : in.z, f == 0 ? in.y : in.w, T{});
          }
        }
        if (half == 0 && kHalves == 1) continue;
        const float2 scales = __half22float2(own.scales);
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
          sum[j][0] = fmaf(scales.x, part[j][0], sum[j][0]);
          sum[j][1] = fmaf(scales.x, part[j][1], sum[j][1]);
          sum[j][2] = fmaf(scales.y, part[j][2], sum[j][2]);
          sum[j][3] = fmaf(scales.y, part[j][3], sum[j][3]);
        }
      }
    }
  }
  keep_sums<kTiles>(sum, reinterpret_cast<float*>(shared + warp * warp_bytes), 2 * g, 2 * g + 1, lane);
  __syncthreads();
  write_sums<T, kTiles>(args, shared, warp_bytes);
}

constexpr int kExpandThreads = 256;

// A warp a block of a panel.
template <class T>
__global__ __launch_bounds__(kExpandThreads) void expand_grid_kernel(GridWeight weight, std::int64_t rows,
                                                                     std::int64_t cols, int blocks, T* dense) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int b = static_cast<int>(blockIdx.x) * (kExpandThreads / kWarp) + static_cast<int>(threadIdx.x) / kWarp;
  if (b >= blocks) return;
  const std::int64_t panel = blockIdx.y;
  const int g = lane / 4;
  const int t = lane % 4;
  const uint4 word = weight.codes[(panel * blocks + b) * kWarp + lane];
  const std::uint32_t words[2][2] = {{word.x, word.z}, {word.y, word.w}};
  for (int half = 0; half < 2; ++half) {
    const std::int64_t at = (panel * weight.groups + weight.group_of(b, half)) * kRows + 2 * g;
    for (int r = 0; r < 2; ++r) {
      const std::int64_t row = panel * kRows + 2 * g + r;
      const std::int64_t column = std::int64_t{kCompactBlock} * b + 32 * half + 8 * t;
      if (row >= rows) continue;
      const float scale = __half2float(weight.scales[at + r]);
      const int zero = weight.zeros != nullptr ? weight.zeros[at + r] : static_cast<int>(weight.middle);
      for (int c = 0; c < 8 && column + c < cols; ++c) {
        const auto code = static_cast<int>(words[half][r] >> (4 * (c / 2 + c % 2 * 4)) & 15u);
        dense[row * cols + column + c] = from_float<T>(static_cast<float>(code - zero) * scale);
      }
    }
  }
}

}  // namespace

void multiply_grid(const GridWeight& weight, const CompactArgs& args, cudaStream_t stream) {
  if (args.tokens == 0 || args.rows == 0) return;
  const int blocks = blocks_of(args.cols);
  const std::int64_t panels = panels_of(args.rows);
  with_case(args, [&](auto zero, auto tiles, auto whole) {
    constexpr int kTiles = decltype(tiles)::value;
    constexpr bool kWhole = decltype(whole)::value;
    constexpr int kBytes = kSumBytes<kTiles>;
    const int warps = warps_per_panel(panels, blocks, kGridWarps, kBytes);
    const auto launch = [&](auto kernel) {
      launch_early(kernel, panels, warps, warps * kBytes, stream, weight, args, blocks, kBytes);
    };
    if (weight.group > 0 && weight.group < kCompactBlock) {
      launch(grid_kernel<decltype(zero), kTiles, kWhole, 2>);
    } else {
      launch(grid_kernel<decltype(zero), kTiles, kWhole, 1>);
    }
  });
}

void expand_grid(const GridWeight& weight, DType dtype, std::int64_t rows, std::int64_t cols, void* dense,
                 cudaStream_t stream) {
  const int blocks = blocks_of(cols);
  constexpr int kWarpsEach = kExpandThreads / kWarp;
  const dim3 grid(static_cast<unsigned>((blocks + kWarpsEach - 1) / kWarpsEach),
                  static_cast<unsigned>(panels_of(rows)));
  if (dtype == DType::kF16) {
    expand_grid_kernel<<<grid, kExpandThreads, 0, stream>>>(weight, rows, cols, blocks,
                                                            static_cast<__half*>(dense));
  } else {
    expand_grid_kernel<<<grid, kExpandThreads, 0, stream>>>(weight, rows, cols, blocks,
                                                            static_cast<__nv_bfloat16*>(dense));
  }
  check_launch("expand_grid");
}

}  // namespace swiftprune::cuda
