// Few tokens times codes on a grid (packed_grid.cuh), and their expansion.
#include "swiftprune/cuda/sparse/packed_grid.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kGridPanelWarps = 12;  // of a block of threads
constexpr int kGridBlocks = 2;       // of threads, of a multiprocessor, by their registers

// kParts: of a block, with scales of their own. kWhole: all columns exist and rows of x are aligned.
template <class T, int kTiles, bool kWhole, int kBits, int kParts, bool kZeros>
__global__ __launch_bounds__(kGridPanelWarps* kWarp,
                             kGridBlocks) void grid_kernel(GridWeight weight, CompactArgs args, int blocks,
                                                           int warp_bytes) {
  extern __shared__ uint4 dynamic[];
  let_next_start();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int g = lane / 4;
  auto* const shared = reinterpret_cast<std::byte*>(dynamic);
  const int first = blocks * warp / warps;
  const int last = blocks * (warp + 1) / warps;  // beyond first: warps_per_panel() gives each a block
  GridSum<T, kTiles, kWhole, kBits, kParts, kZeros> part(weight, blockIdx.x, blocks, first, last, lane);
  wait_for_inputs();

  const T* x[kTiles];
#pragma unroll
  for (int j = 0; j < kTiles; ++j)
    x[j] = static_cast<const T*>(args.x) + token_of(args, j, g) * args.x_stride;
  float sum[kTiles][4] = {};
  part.add_to(sum, x, static_cast<int>(args.cols));
  keep_sums<kTiles>(sum, reinterpret_cast<float*>(shared + warp * warp_bytes), 2 * g, 2 * g + 1, lane);
  __syncthreads();
  write_sums<T, kTiles>(args, shared, warp_bytes);
}

constexpr int kExpandThreads = 256;

// A warp a block of a panel.
template <class T, int kBits>
__global__ __launch_bounds__(kExpandThreads) void expand_grid_kernel(GridWeight weight, std::int64_t rows,
                                                                     std::int64_t cols, int blocks,
                                                                     T* dense) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int b =
      static_cast<int>(blockIdx.x) * (kExpandThreads / kWarp) + static_cast<int>(threadIdx.x) / kWarp;
  if (b >= blocks) return;
  const std::int64_t panel = blockIdx.y;
  const int g = lane / 4;
  const int t = lane % 4;
  std::uint32_t words[kBits];
  load_codes<kBits>(weight.codes + (panel * blocks + b) * (kBits / 4) * kWarp + lane, words);
  const bool vectors = cols % 8 == 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t at = (panel * weight.groups + weight.group_of(b, half)) * kRows + 2 * g;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::int64_t row = panel * kRows + 2 * g + r;
      const std::int64_t column = std::int64_t{kCompactBlock} * b + 32 * half + 8 * t;
      if (row >= rows) continue;
      const float scale = __half2float(weight.scales[at + r]);
      const int zero = weight.zeros != nullptr ? weight.zeros[at + r] : static_cast<int>(weight.middle);
      Eight<T> values;
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        const auto code = static_cast<int>(code_of<kBits>(words, half, r, c));
        values.v[c] = from_float<T>(static_cast<float>(code - zero) * scale);
      }
      T* target = dense + row * cols + column;
      if (vectors) {
        if (column < cols) store_eight(target, values);
        continue;
      }
      for (int c = 0; c < 8 && column + c < cols; ++c) target[c] = values.v[c];
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
    const int warps = warps_per_panel(panels, blocks, kGridBlocks * kGridPanelWarps, kBytes, kGridPanelWarps);
    const auto launch = [&](auto kernel) {
      launch_panels(kernel, panels, warps, warps * kBytes, stream, weight, args, blocks, kBytes);
    };
    using T = decltype(zero);
    const bool halves = weight.shift == 5, zeros = weight.zeros != nullptr;
    if (weight.bits == 8 && zeros) return launch(grid_kernel<T, kTiles, kWhole, 8, 2, true>);
    if (weight.bits == 8) return launch(grid_kernel<T, kTiles, kWhole, 8, 2, false>);
    if (halves && zeros) return launch(grid_kernel<T, kTiles, kWhole, 4, 2, true>);
    if (halves) return launch(grid_kernel<T, kTiles, kWhole, 4, 2, false>);
    if (zeros) return launch(grid_kernel<T, kTiles, kWhole, 4, 1, true>);
    launch(grid_kernel<T, kTiles, kWhole, 4, 1, false>);
  });
}

void expand_grid(const GridWeight& weight, DType dtype, std::int64_t rows, std::int64_t cols, void* dense,
                 cudaStream_t stream) {
  const int blocks = blocks_of(cols);
  constexpr int kWarpsEach = kExpandThreads / kWarp;
  const dim3 grid(static_cast<unsigned>((blocks + kWarpsEach - 1) / kWarpsEach),
                  static_cast<unsigned>(panels_of(rows)));
  const auto launch = [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = weight.bits == 8 ? expand_grid_kernel<T, 8> : expand_grid_kernel<T, 4>;
    kernel<<<grid, kExpandThreads, 0, stream>>>(weight, rows, cols, blocks, static_cast<T*>(dense));
  };
  dtype == DType::kF16 ? launch(__half{}) : launch(__nv_bfloat16{});
  check_launch("expand_grid");
}

}  // namespace swiftprune::cuda
