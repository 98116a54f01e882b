// Packed weights to dense ones, for products of many tokens.
#include "swiftprune/cuda/sparse/packed_device.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kExpandWarps = 8;
constexpr int kTileCols = static_cast<int>(kCompactBlock);

// A warp's tile [16, 64] to rows of the dense matrix.
__device__ __forceinline__ void store_tile(const std::uint16_t (*tile)[kTileCols], std::uint16_t* dense,
                                           std::int64_t first_row, std::int64_t first_col, std::int64_t rows,
                                           std::int64_t cols, int lane) {
  const bool vectors = cols % 8 == 0;
  for (int i = lane; i < kRows * kTileCols / 8; i += kWarp) {
    const int r = i / (kTileCols / 8);
    const int c = i % (kTileCols / 8) * 8;
    if (first_row + r >= rows) continue;
    std::uint16_t* target = dense + (first_row + r) * cols + first_col + c;
    if (vectors) {
      if (first_col + c < cols)
        *reinterpret_cast<uint4*>(target) = *reinterpret_cast<const uint4*>(&tile[r][c]);
      continue;
    }
    for (int e = 0; e < 8 && first_col + c + e < cols; ++e) target[e] = tile[r][c + e];
  }
}

// A pair times its row's scale, rounded as on the host.
template <class T>
__device__ __forceinline__ std::uint32_t scaled(std::uint32_t pair, float scale) {
  struct alignas(4) Two {
    T v[2];
  };
  Two two = *reinterpret_cast<const Two*>(&pair);
  for (T& value : two.v) value = from_float<T>(to_float(value) * scale);
  return *reinterpret_cast<const std::uint32_t*>(&two);
}

template <class T, Stored kStored>
__global__ __launch_bounds__(kExpandWarps* kWarp) void expand_bitmap_kernel(BitmapWeight weight,
                                                                            std::int64_t rows,
                                                                            std::int64_t cols, int blocks,
                                                                            std::uint16_t* dense) {
  extern __shared__ uint4 dynamic[];
  __shared__ alignas(16) std::uint16_t tiles[kExpandWarps][kRows][kTileCols];
  __shared__ alignas(128) Spread table[16];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int b = static_cast<int>(blockIdx.x) * kExpandWarps + warp;
  const std::int64_t panel = blockIdx.y;
  if (threadIdx.x < 16) table[threadIdx.x] = table_entry<kStored>(threadIdx.x);
  uint4* const slot = dynamic + warp * (weight.most + 1);
  if (b < blocks) {
    const std::uint32_t begin = weight.starts[panel * blocks + b];
    const std::uint32_t size = weight.starts[panel * blocks + b + 1] - begin;
    for (std::uint32_t i = lane; i < size; i += kWarp) slot[i] = weight.chunks[begin + i];
  }
  __syncthreads();
  if (b >= blocks) return;
  const int g = lane / 4;
  const int t = lane % 4;
  const auto* chunk = reinterpret_cast<const std::byte*>(slot);
  const Decoder decoder(table, g);
  const Words words = load_words(chunk + 32 * t);
  const auto* starts = reinterpret_cast<const std::uint16_t*>(chunk + 4 * kPairs) + 8 * t;
  Words upper;
  Words lower;
#pragma unroll
  for (int s = 0; s < 8; ++s) {
    decoder.decode_as<kStored, T>(words.v[s], shared_address(chunk + kValuesAt) + starts[s], upper.v[s],
                                  lower.v[s]);
    if constexpr (kStored != Stored::kHalf) {
      const float* scales = weight.scales + panel * kRows + 2 * g;
      upper.v[s] = scaled<T>(upper.v[s], scales[0] * kWidening<T, kStored>);
      lower.v[s] = scaled<T>(lower.v[s], scales[1] * kWidening<T, kStored>);
    }
  }
  auto& tile = tiles[warp];
  store_words(&tile[2 * g][16 * t], upper);
  store_words(&tile[2 * g + 1][16 * t], lower);
  __syncwarp();
  store_tile(tile, dense, panel * kRows, std::int64_t{b} * kTileCols, rows, cols, lane);
}

__global__ __launch_bounds__(kExpandWarps* kWarp) void expand_two_four_kernel(TwoFourWeight weight,
                                                                              std::int64_t rows,
                                                                              std::int64_t cols, int blocks,
                                                                              std::uint16_t* dense) {
  __shared__ alignas(16) std::uint16_t tiles[kExpandWarps][kRows][kTileCols];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int b = static_cast<int>(blockIdx.x) * kExpandWarps + warp;
  const std::int64_t panel = blockIdx.y;
  if (b >= blocks) return;
  auto& tile = tiles[warp];
  const std::uint32_t indices = weight.indices[(panel * blocks + b) * kWarp + lane];
  for (int i = lane; i < kRows * kTileCols / 2; i += kWarp) reinterpret_cast<std::uint32_t*>(tile)[i] = 0;
  __syncwarp();
  for (int s = 0; s < 2; ++s) {
    const uint4 a = weight.values[((panel * blocks + b) * 2 + s) * kWarp + lane];
    const std::uint32_t pairs[4] = {a.x, a.y, a.z, a.w};
    for (int i = 0; i < 4; ++i) {
      const int half = i / 2;  // of the step: groups 0 .. 3, 4 .. 7
      const std::uint32_t four =
          __shfl_sync(kFullWarp, indices, lane / 4 * 4 + 2 * s + half) >> (16 * (i % 2) + 4 * (lane % 4));
      std::uint16_t* group = &tile[lane / 4 + 8 * (i % 2)][32 * s + 16 * half + 4 * (lane % 4)];
      group[four & 3u] = static_cast<std::uint16_t>(pairs[i]);
      group[four >> 2 & 3u] = static_cast<std::uint16_t>(pairs[i] >> 16);
    }
  }
  __syncwarp();
  store_tile(tile, dense, panel * kRows, std::int64_t{b} * kTileCols, rows, cols, lane);
}

// A warp a block, which is half a unit.
template <class T>
__global__ __launch_bounds__(kExpandWarps* kWarp) void expand_two_four_grid_kernel(
    TwoFourGridWeight weight, std::int64_t rows, std::int64_t cols, int units, std::uint16_t* dense) {
  __shared__ alignas(16) std::uint16_t tiles[kExpandWarps][kRows][kTileCols];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int b = static_cast<int>(blockIdx.x) * kExpandWarps + warp;
  const std::int64_t panel = blockIdx.y;
  if (std::int64_t{b} * kTileCols >= cols) return;
  auto& tile = tiles[warp];
  const std::int64_t at = (panel * units + b / 2) * kWarp + lane;
  const uint2 both = weight.indices[at];
  const std::uint32_t indices = b % 2 == 0 ? both.x : both.y;
  const uint4 codes = weight.grid.codes[at];
  const std::uint32_t words[2] = {b % 2 == 0 ? codes.x : codes.z, b % 2 == 0 ? codes.y : codes.w};
  for (int i = lane; i < kRows * kTileCols / 2; i += kWarp) reinterpret_cast<std::uint32_t*>(tile)[i] = 0;
  __syncwarp();
  for (int s = 0; s < 2; ++s) {
    const std::int64_t group = (panel * weight.grid.groups + weight.grid.group_of(b, s)) * kRows;
    for (int i = 0; i < 4; ++i) {
      const int half = i / 2;  // of the step: groups 0 .. 3, 4 .. 7
      const int row = lane / 4 * 2 + i % 2;
      const std::uint32_t four =
          __shfl_sync(kFullWarp, indices, lane / 4 * 4 + 2 * s + half) >> (16 * (i % 2) + 4 * (lane % 4));
      const float scale = __half2float(weight.grid.scales[group + row]);
      const int zero = weight.grid.zeros != nullptr ? weight.grid.zeros[group + row]
                                                    : static_cast<int>(weight.grid.middle);
      std::uint16_t* target = &tile[row][32 * s + 16 * half + 4 * (lane % 4)];
      for (int n = 0; n < 2; ++n) {
        const auto code = static_cast<int>(words[s] >> (4 * (i + 4 * n)) & 15u);
        const T value = from_float<T>(static_cast<float>(code - zero) * scale);
        target[four >> (2 * n) & 3u] = *reinterpret_cast<const std::uint16_t*>(&value);
      }
    }
  }
  __syncwarp();
  store_tile(tile, dense, panel * kRows, std::int64_t{b} * kTileCols, rows, cols, lane);
}

}  // namespace

void expand_bitmap(const BitmapWeight& weight, DType dtype, std::int64_t rows, std::int64_t cols, void* dense,
                   cudaStream_t stream) {
  const int blocks = blocks_of(cols);
  const dim3 grid(static_cast<unsigned>((blocks + kExpandWarps - 1) / kExpandWarps),
                  static_cast<unsigned>(panels_of(rows)));
  const int shared = kExpandWarps * 16 * static_cast<int>(weight.most + 1);
  const auto launch = [&](auto kernel) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    kernel<<<grid, kExpandWarps * kWarp, shared, stream>>>(weight, rows, cols, blocks,
                                                           static_cast<std::uint16_t*>(dense));
  };
  with_stored(weight.stored, [&](auto stored) {
    constexpr Stored kStored = decltype(stored)::value;
    dtype == DType::kF16 ? launch(expand_bitmap_kernel<__half, kStored>)
                         : launch(expand_bitmap_kernel<__nv_bfloat16, kStored>);
  });
  check_launch("expand_bitmap");
}

void expand_two_four(const TwoFourWeight& weight, std::int64_t rows, std::int64_t cols, void* dense,
                     cudaStream_t stream) {
  const int blocks = blocks_of(cols);
  const dim3 grid(static_cast<unsigned>((blocks + kExpandWarps - 1) / kExpandWarps),
                  static_cast<unsigned>(panels_of(rows)));
  expand_two_four_kernel<<<grid, kExpandWarps * kWarp, 0, stream>>>(weight, rows, cols, blocks,
                                                                    static_cast<std::uint16_t*>(dense));
  check_launch("expand_two_four");
}

void expand_two_four_grid(const TwoFourGridWeight& weight, DType dtype, std::int64_t rows, std::int64_t cols,
                          void* dense, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((blocks_of(cols) + kExpandWarps - 1) / kExpandWarps),
                  static_cast<unsigned>(panels_of(rows)));
  const auto launch = [&](auto kernel) {
    kernel<<<grid, kExpandWarps * kWarp, 0, stream>>>(weight, rows, cols, grid_units_of(cols),
                                                      static_cast<std::uint16_t*>(dense));
  };
  dtype == DType::kF16 ? launch(expand_two_four_grid_kernel<__half>)
                       : launch(expand_two_four_grid_kernel<__nv_bfloat16>);
  check_launch("expand_two_four_grid");
}

}  // namespace swiftprune::cuda
