// Few tokens times codes of 4 bits on a grid, and their expansion. As in packed.cu a warp turns 64-column blocks of a
// panel of 16 rows into fragments of tensor core products in registers; the fragments hold the codes less their zero
// point, which are exact in 16 bits, and the scale of a group multiplies its sums in float.
#include "swiftprune/cuda/sparse/packed_codes.cuh"
#include "swiftprune/cuda/sparse/packed_launch.cuh"

namespace swiftprune::cuda {
namespace {

// Blocks in registers: as many as do not spill.
template <int kTiles, int kParts, bool kZeros>
constexpr int kGridAhead = kTiles == 2              ? 2
                           : kParts == 1 && !kZeros ? 4
                                                    : 3;
constexpr int kGridPanelWarps = 12;  // of a block of threads
constexpr int kGridBlocks = 2;       // of threads, of a multiprocessor, by their registers

// What a lane reads of one block: its codes, and scales and zero points of its rows 2g and 2g + 1 for each part of the
// block that has its own.
template <int kParts>
struct GridBlock {
  uint4 codes;
  std::uint32_t scales[kParts];  // two of F16
  std::uint16_t zeros[kParts];   // two bytes, where the grid has them
};
// Of one panel, for one lane.
template <int kParts, bool kZeros>
class GridStream {
 public:
  __device__ GridStream(const GridWeight& weight, std::int64_t panel, int blocks, int lane)
      : codes_(weight.codes + panel * blocks * kWarp + lane),
        scales_(reinterpret_cast<const std::uint32_t*>(weight.scales) + panel * weight.groups * (kRows / 2) +
                lane / 4),
        zeros_(reinterpret_cast<const std::uint16_t*>(weight.zeros) + panel * weight.groups * (kRows / 2) +
               lane / 4),
        weight_(weight) {}
  __device__ __forceinline__ GridBlock<kParts> fetch(int b) const {
    GridBlock<kParts> block;
    block.codes = __ldcs(codes_ + b * kWarp);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int at = weight_.group_of(b, part) * (kRows / 2);
      block.scales[part] = __ldg(scales_ + at);
      if constexpr (kZeros) block.zeros[part] = __ldg(zeros_ + at);
    }
    return block;
  }

 private:
  const uint4* codes_;
  const std::uint32_t* scales_;
  const std::uint16_t* zeros_;
  const GridWeight& weight_;
};

// A lane's inputs of one block, eight of each half; those beyond the last column are zero.
struct GridInputs {
  uint4 halves[2];
};
template <class T, bool kWhole>
__device__ __forceinline__ GridInputs load_inputs_of(const T* x, int b, int cols, int t) {
  GridInputs inputs;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int column = static_cast<int>(kCompactBlock) * b + 32 * half + 8 * t;
    if constexpr (kWhole) {
      inputs.halves[half] = *reinterpret_cast<const uint4*>(x + column);
    } else {
      const auto* bits = reinterpret_cast<const std::uint16_t*>(x + column);
      std::uint32_t words[4];
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t low = column + 2 * i < cols ? bits[2 * i] : 0;
        const std::uint32_t high = column + 2 * i + 1 < cols ? bits[2 * i + 1] : 0;
        words[i] = low | high << 16;
      }
      inputs.halves[half] = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
  return inputs;
}

// sum += scales·((codes - zeros) · inputs) of one block. middle: kMagic | the zero point of grids without zeros, twice.
template <class T, int kTiles, int kParts, bool kZeros>
__device__ __forceinline__ void multiply_block(const GridBlock<kParts>& block, std::uint32_t middle,
                                               const GridInputs (&inputs)[kTiles], float (&sum)[kTiles][4]) {
  const std::uint32_t rows[2][2] = {{block.codes.x, block.codes.z}, {block.codes.y, block.codes.w}};
  float part[kTiles][4] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const ZeroPairs zeros = zero_pairs<T, kZeros>(middle, kZeros ? block.zeros[half % kParts] : 0u);
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      const std::uint32_t a[4] = {code_pair<T>(rows[half][0], 2 * f, zeros.upper),
                                  code_pair<T>(rows[half][1], 2 * f, zeros.lower),
                                  code_pair<T>(rows[half][0], 2 * f + 1, zeros.upper),
                                  code_pair<T>(rows[half][1], 2 * f + 1, zeros.lower)};
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const uint4& in = inputs[j].halves[half];
        multiply(part[j], a, f == 0 ? in.x : in.z, f == 0 ? in.y : in.w, T{});
      }
    }
    if (half == 0 && kParts == 1) continue;
    add_scaled<kTiles>(block.scales[half % kParts], part, sum);
  }
}

// kParts: of a block, with scales of their own. kWhole: all columns exist and rows of x are aligned.
template <class T, int kTiles, bool kWhole, int kParts, bool kZeros>
__global__ __launch_bounds__(kGridPanelWarps* kWarp,
                             kGridBlocks) void grid_kernel(GridWeight weight, CompactArgs args, int blocks,
                                                           int warp_bytes) {
  extern __shared__ uint4 dynamic[];
  let_next_start();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  auto* const shared = reinterpret_cast<std::byte*>(dynamic);
  const int first = blocks * warp / warps;
  const int last = blocks * (warp + 1) / warps;  // beyond first: warps_per_panel() gives each a block
  const std::int64_t panel = blockIdx.x;
  const GridStream<kParts, kZeros> stream(weight, panel, blocks, lane);
  const std::uint32_t middle = twice<T>(weight.middle);
  constexpr int kAhead = kGridAhead<kTiles, kParts, kZeros>;
  GridBlock<kParts> held[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) held[i] = stream.fetch(min(first + i, last - 1));
  wait_for_inputs();

  const T* x[kTiles];
#pragma unroll
  for (int j = 0; j < kTiles; ++j)
    x[j] = static_cast<const T*>(args.x) + token_of(args, j, g) * args.x_stride;
  const auto load = [&](int b, GridInputs(&inputs)[kTiles]) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
      inputs[j] = load_inputs_of<T, kWhole>(x[j], b, static_cast<int>(args.cols), t);
  };
  float sum[kTiles][4] = {};
  int b = first;
  // Without a branch inside, so that what comes next is fetched early; the last ones are fetched more than once.
  for (; b + kAhead <= last; b += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      GridInputs inputs[kTiles];
      load(b + i, inputs);
      const GridBlock<kParts> block = held[i];
      held[i] = stream.fetch(min(b + i + kAhead, last - 1));
      multiply_block<T, kTiles, kParts, kZeros>(block, middle, inputs, sum);
    }
  }
#pragma unroll
  for (int i = 0; i < kAhead - 1; ++i) {
    if (b + i < last) {
      GridInputs inputs[kTiles];
      load(b + i, inputs);
      multiply_block<T, kTiles, kParts, kZeros>(held[i], middle, inputs, sum);
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
                                                                     std::int64_t cols, int blocks,
                                                                     T* dense) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int b =
      static_cast<int>(blockIdx.x) * (kExpandThreads / kWarp) + static_cast<int>(threadIdx.x) / kWarp;
  if (b >= blocks) return;
  const std::int64_t panel = blockIdx.y;
  const int g = lane / 4;
  const int t = lane % 4;
  const uint4 word = weight.codes[(panel * blocks + b) * kWarp + lane];
  const std::uint32_t words[2][2] = {{word.x, word.z}, {word.y, word.w}};
  const bool vectors = cols % 8 == 0;
  for (int half = 0; half < 2; ++half) {
    const std::int64_t at = (panel * weight.groups + weight.group_of(b, half)) * kRows + 2 * g;
    for (int r = 0; r < 2; ++r) {
      const std::int64_t row = panel * kRows + 2 * g + r;
      const std::int64_t column = std::int64_t{kCompactBlock} * b + 32 * half + 8 * t;
      if (row >= rows) continue;
      const float scale = __half2float(weight.scales[at + r]);
      const int zero = weight.zeros != nullptr ? weight.zeros[at + r] : static_cast<int>(weight.middle);
      Eight<T> values;
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        const auto code = static_cast<int>(words[half][r] >> (4 * (c / 2 + c % 2 * 4)) & 15u);
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
    if (halves && zeros) return launch(grid_kernel<T, kTiles, kWhole, 2, true>);
    if (halves) return launch(grid_kernel<T, kTiles, kWhole, 2, false>);
    if (zeros) return launch(grid_kernel<T, kTiles, kWhole, 1, true>);
    launch(grid_kernel<T, kTiles, kWhole, 1, false>);
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
