// What the kernels for few tokens share: the end of a panel's sums, and how many warps take one.
#pragma once

#include <algorithm>
#include <type_traits>

#include "swiftprune/cuda/runtime/early_launch.cuh"
#include "swiftprune/cuda/sparse/packed_device.cuh"

namespace swiftprune::cuda {

constexpr int kMostWarps = 16;  // of a block of threads

// The token whose inputs a lane reads for column g of tile j. Beyond the last one any will do: that column of
// the product is dropped.
__device__ __forceinline__ int token_of(const CompactArgs& args, int j, int g) {
  return min(8 * j + g, static_cast<int>(args.tokens) - 1);
}
// y of one row and token from its sum.
template <class T>
__device__ __forceinline__ void store_sum(const CompactArgs& args, float sum, std::int64_t token,
                                          std::int64_t row) {
  const std::int64_t at = token * args.y_stride + row;
  if (args.y_dtype == DType::kF32) {
    auto* y = static_cast<float*>(args.y) + at;
    if (args.bias != nullptr) sum += static_cast<const float*>(args.bias)[row];
    *y = args.accumulate ? *y + sum : sum;
  } else {
    if (args.bias != nullptr) sum += to_float(static_cast<const T*>(args.bias)[row]);
    static_cast<T*>(args.y)[at] = from_float<T>(sum);
  }
}
// Adds up the warps' sums [warps][16 rows, 8·kTiles tokens] in the order of the warps and writes y.
// scales: of the rows, or null.
template <class T, int kTiles>
__device__ __forceinline__ void write_sums(const CompactArgs& args, const std::byte* sums, int warp_bytes,
                                           const float* scales = nullptr, float widening = 1.0f) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * static_cast<int>(args.tokens);
       i += static_cast<int>(blockDim.x)) {
    const int r = i % kRows;
    const int token = i / kRows;
    const std::int64_t row = std::int64_t{blockIdx.x} * kRows + r;
    if (row >= args.rows) continue;
    float sum = 0.0f;
    for (int w = 0; w < warps; ++w) {
      sum += reinterpret_cast<const float*>(sums + w * warp_bytes)[r * 8 * kTiles + token];
    }
    if (scales != nullptr) sum *= scales[row] * widening;
    store_sum<T>(args, sum, token, row);
  }
}

template <int kTiles>
__device__ __forceinline__ void keep_sums(const float (&sum)[kTiles][4], float* target, int first_row,
                                          int second_row, int lane) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? first_row : second_row;
      target[row * 8 * kTiles + 8 * j + 2 * (lane % 4) + i % 2] = sum[j][i];
    }
  }
}

template <int kTiles>
constexpr int kSumBytes = kRows * 8 * kTiles* static_cast<int>(sizeof(float));

// Fewer warps a panel take too long when the others are done.
constexpr int kLeastPanelWarps = 4;

// So many that all panels run at once, when a multiprocessor holds `most` warps with `warp_bytes` of shared
// memory each, but kLeastPanelWarps at least; each warp gets a block at least.
inline int warps_per_panel(std::int64_t panels, int blocks, int most, int warp_bytes,
                           int most_a_panel = kMostWarps) {
  static const int multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount);
  static const int shared_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  const std::int64_t panels_each = (panels + multiprocessors - 1) / multiprocessors;
  const std::int64_t warps = std::min(most, shared_bytes / warp_bytes) / panels_each;
  return std::min(blocks, static_cast<int>(std::clamp<std::int64_t>(warps, kLeastPanelWarps, most_a_panel)));
}

template <class... Parameters, class... Arguments>
void launch_panels(void (*kernel)(Parameters...), std::int64_t panels, int warps, int shared,
                   cudaStream_t stream, Arguments... arguments) {
  launch_early(kernel, dim3(static_cast<unsigned>(panels)), warps * kWarp, shared, stream, arguments...);
  check_launch("a product of a few tokens");
}

// Some of the tokens alone.
inline CompactArgs tokens_of(const CompactArgs& args, std::int64_t first, std::int64_t count) {
  CompactArgs some = args;
  some.tokens = count;
  some.x = static_cast<const std::byte*>(args.x) + 2 * first * args.x_stride;
  some.y = static_cast<std::byte*>(args.y) + (args.y_dtype == DType::kF32 ? 4 : 2) * first * args.y_stride;
  return some;
}

// Calls body(T{}, tiles, whole) with both as constants.
template <class Body>
void with_case(const CompactArgs& args, const Body& body) {
  const bool whole = args.cols % kCompactBlock == 0 && args.x_stride % 8 == 0 && is_aligned(args.x);
  const auto typed = [&](auto zero) {
    const auto tiled = [&](auto tiles) {
      whole ? body(zero, tiles, std::true_type{}) : body(zero, tiles, std::false_type{});
    };
    args.tokens > 8 ? tiled(std::integral_constant<int, 2>{}) : tiled(std::integral_constant<int, 1>{});
  };
  args.dtype == DType::kF16 ? typed(__half{}) : typed(__nv_bfloat16{});
}

}  // namespace swiftprune::cuda
