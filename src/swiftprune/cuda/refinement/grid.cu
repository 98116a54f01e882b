// Weights on a grid of few bits: scales by range and by search, columns rounded with compensation, and what leads there
// and away. The meaning of each is refinement/grid_solver.h's; sums have a fixed order, so equal runs give equal bits.
#include "swiftprune/cuda/refinement/grid.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kEach = static_cast<int>(kGridBlock) / kWarp;  // columns of a lane: lane + 32·i

__device__ __forceinline__ float warp_min(float x) { return -warp_max(-x); }

// Of a range, as refinement/grid_search.h's range_grid().
__device__ __forceinline__ void range_group(float low, float high, const GridRows& grid, float& scale,
                                            float& zero) {
  const double steps = static_cast<double>(top_code(grid));
  if (!grid.asymmetric) {
    scale = scale_of(2.0 * static_cast<double>(fmaxf(high, -low)) / steps);
    zero = middle_code(grid);
    return;
  }
  scale = scale_of((static_cast<double>(high) - static_cast<double>(low)) / steps);
  const double wanted = round(-static_cast<double>(low) / static_cast<double>(scale));
  zero = static_cast<float>(fmin(fmax(wanted, 0.0), steps));
}

__global__ __launch_bounds__(kGridThreads) void gather_square_kernel(const float* gram,
                                                                     const std::int32_t* order,
                                                                     std::int64_t n, float* h) {
  const std::int64_t i = blockIdx.x;
  const float* row = gram + std::int64_t{order[i]} * n;
  for (std::int64_t j = threadIdx.x; j < n; j += kGridThreads) h[i * n + j] = row[order[j]];
}

__global__ __launch_bounds__(kGridThreads) void normalise_kernel(const float* h, const float* norm,
                                                                 const std::int32_t* order, std::int64_t n,
                                                                 float shift, float* a) {
  const std::int64_t i = blockIdx.x;
  const float own = 1.0f / norm[order[i]];
  for (std::int64_t j = threadIdx.x; j < n; j += kGridThreads)
    a[i * n + j] = h[i * n + j] * own / norm[order[j]] + (i == j ? shift : 0.0f);
}

__global__ __launch_bounds__(kGridThreads) void rescale_kernel(float* factor, float* h, const float* norm,
                                                               const std::int32_t* order, std::int64_t n,
                                                               float damping) {
  const std::int64_t i = blockIdx.x;
  for (std::int64_t j = threadIdx.x; j < n; j += kGridThreads) factor[i * n + j] /= norm[order[j]];
  if (threadIdx.x == 0) {
    const float size = norm[order[i]];
    h[i * n + i] += damping * size * size;
  }
}

__global__ __launch_bounds__(kGridThreads) void diagonal_kernel(const float* h, const std::int32_t* order,
                                                                std::int64_t n, float* diagonal) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kGridThreads + threadIdx.x;
  if (i < n) diagonal[order[i]] = h[i * n + i];
}

__global__ __launch_bounds__(kGridThreads) void order_kernel(GridRows grid, const float* from, float* to,
                                                             std::uint8_t* mask, const std::int32_t* source) {
  const std::int64_t row = std::int64_t{blockIdx.x} * grid.cols;
  for (std::int64_t j = threadIdx.x; j < grid.cols; j += kGridThreads) {
    const float value = from[row + source[j]];
    to[row + j] = value;
    if (mask != nullptr) mask[row + j] = value != 0.0f ? 1 : 0;
  }
}

__global__ __launch_bounds__(kGridThreads) void order_mask_kernel(GridRows grid, const std::uint8_t* from,
                                                                  std::uint8_t* to) {
  const std::int64_t row = std::int64_t{blockIdx.x} * grid.cols;
  for (std::int64_t j = threadIdx.x; j < grid.cols; j += kGridThreads)
    to[row + j] = from[row + grid.order[j]];
}

// A warp a group.
__global__ __launch_bounds__(kGridThreads) void range_kernel(GridRows grid, const float* w) {
  const std::int64_t group = std::int64_t{blockIdx.x} * kGridWarps + threadIdx.x / kWarp;
  if (group >= grid.rows * grid.groups) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* values = w + group * grid.width;  // rows have whole groups
  float low = 0.0f, high = 0.0f;
  for (std::int64_t j = lane; j < grid.width; j += kWarp) {
    low = fminf(low, values[j]);
    high = fmaxf(high, values[j]);
  }
  low = warp_min(low);
  high = warp_max(high);
  if (lane != 0) return;
  range_group(low, high, grid, grid.scales[group], grid.zeros[group]);
}

__global__ __launch_bounds__(kGridThreads) void search_kernel(GridRows grid, const float* w,
                                                              const float* importance) {
  constexpr int kShares = 40;  // as refinement/grid_search.cpp
  constexpr double kLeastShare = 0.4, kLargestShare = 1.15;
  const std::int64_t group = std::int64_t{blockIdx.x} * kGridWarps + threadIdx.x / kWarp;
  if (group >= grid.rows * grid.groups) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* values = w + group * grid.width;
  const float* counts = importance + group % grid.groups * grid.width;
  float low = 0.0f, high = 0.0f;
  for (std::int64_t j = lane; j < grid.width; j += kWarp) {
    low = fminf(low, values[j]);
    high = fmaxf(high, values[j]);
  }
  low = warp_min(low);
  high = warp_max(high);
  const int top = top_code(grid);
  const double widest = grid.asymmetric
                            ? (static_cast<double>(high) - static_cast<double>(low)) / top
                            : static_cast<double>(fmaxf(high, -low)) / static_cast<double>(middle_code(grid));
  float best_scale = scale_of(widest), best_zero = middle_code(grid), least = INFINITY;
  const auto attempt = [&](double scale, float zero) {
    const Group of = make_group(scale_of(scale), zero, top);
    float error = 0.0f;
    for (std::int64_t j = lane; j < grid.width; j += kWarp) {
      const float change = values[j] - on_grid(of, values[j]);
      error = fmaf(counts[j] * change, change, error);
    }
    error = warp_sum(error);
    if (error < least) {
      least = error;
      best_scale = of.scale;
      best_zero = zero;
    }
  };
  for (int i = 0; i < kShares && widest > 0.0; ++i) {
    const double scale =
        widest * (kLargestShare - (kLargestShare - kLeastShare) * static_cast<double>(i) / (kShares - 1));
    if (!grid.asymmetric) {
      attempt(scale, middle_code(grid));
      continue;
    }
    const double middle = 0.5 * (static_cast<double>(low) + static_cast<double>(high));
    const double zero = round(0.5 * top - middle / scale);
    for (int shift = -1; shift <= 1; ++shift) {
      const double shifted = zero + shift;
      if (shifted >= 0.0 && shifted <= top) attempt(scale, static_cast<float>(shifted));
    }
  }
  if (lane != 0) return;
  grid.scales[group] = best_scale;
  grid.zeros[group] = best_zero;
}

__global__ __launch_bounds__(kGridThreads) void round_kernel(GridRows grid, float* w) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kGridThreads + threadIdx.x;
  if (i >= grid.rows * grid.cols) return;
  const std::int64_t group = i / grid.width;
  w[i] = on_grid(make_group(grid.scales[group], grid.zeros[group], top_code(grid)), w[i]);
}

// The block's corner of a matrix on the diagonal, to shared memory [size, kGridBlock].
__device__ __forceinline__ void load_corner(const GridBlock& block, float* shared) {
  const int size = block.size;
  for (int i = static_cast<int>(threadIdx.x); i < size * size; i += kGridThreads)
    shared[i / size * kGridBlock + i % size] = block.matrix[i / size * block.matrix_stride + i % size];
}

// A row's columns of a block in a warp's registers.
struct Lanes4 {
  float w[kEach];
  float scale[kEach], zero[kEach];
  std::uint32_t kept[kEach];  // bit l: column l + 32·i
};
__device__ __forceinline__ void load_row(const GridRows& grid, const GridBlock& block, std::int64_t r,
                                         int lane, Lanes4& row) {
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int j = lane + kWarp * i;
    const bool inside = j < block.size;
    row.w[i] = inside ? block.w[r * block.stride + j] : 0.0f;
    const std::int64_t group =
        inside ? r * grid.groups + std::int64_t{grid.order[block.first + j]} / grid.width : 0;
    row.scale[i] = inside ? grid.scales[group] : 1.0f;
    row.zero[i] = inside ? grid.zeros[group] : 0.0f;
    row.kept[i] =
        __ballot_sync(kFullWarp, inside && (block.kept == nullptr || block.kept[r * block.stride + j] != 0));
  }
}

__global__ __launch_bounds__(kGridThreads) void round_block_kernel(GridRows grid, GridBlock block,
                                                                   bool on_the_way, float* errors) {
  extern __shared__ float factor[];
  load_corner(block, factor);
  __syncthreads();
  const int size = block.size;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int top = top_code(grid);
  for (std::int64_t r = std::int64_t{blockIdx.x} * kGridWarps + threadIdx.x / kWarp; r < grid.rows;
       r += std::int64_t{gridDim.x} * kGridWarps) {
    Lanes4 row;
    load_row(grid, block, r, lane, row);
    float error_of[kEach] = {};
#pragma unroll
    for (int part = 0; part < kEach; ++part) {
      for (int l = 0; l < kWarp; ++l) {
        const int j = part * kWarp + l;
        if (j >= size) break;
        if (on_the_way && j % grid.width == 0) {
          const int end = j + static_cast<int>(grid.width);
          float low = 0.0f, high = 0.0f;
#pragma unroll
          for (int i = 0; i < kEach; ++i) {
            const int at = lane + kWarp * i;
            if (at < j || at >= end || ((row.kept[i] >> lane) & 1u) == 0) continue;
            low = fminf(low, row.w[i]);
            high = fmaxf(high, row.w[i]);
          }
          float scale = 1.0f, zero = 0.0f;
          range_group(warp_min(low), warp_max(high), grid, scale, zero);
#pragma unroll
          for (int i = 0; i < kEach; ++i) {
            const int at = lane + kWarp * i;
            if (at < j || at >= end) continue;
            row.scale[i] = scale;
            row.zero[i] = zero;
          }
          if (lane == 0) {
            const std::int64_t group = r * grid.groups + (block.first + j) / grid.width;
            grid.scales[group] = scale;
            grid.zeros[group] = zero;
          }
        }
        const float w = __shfl_sync(kFullWarp, row.w[part], l);
        const Group group = make_group(__shfl_sync(kFullWarp, row.scale[part], l),
                                       __shfl_sync(kFullWarp, row.zero[part], l), top);
        const float value = ((row.kept[part] >> l) & 1u) != 0 ? on_grid(group, w) : 0.0f;
        const float* u = factor + j * kGridBlock;
        const float error = (w - value) / u[j];
        if (lane == l) {
          error_of[part] = error;
          row.w[part] = value;
        }
#pragma unroll
        for (int i = part; i < kEach; ++i) {
          const int k = lane + kWarp * i;
          if (k > j && k < size) row.w[i] = fmaf(-error, u[k], row.w[i]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int j = lane + kWarp * i;
      if (j >= size) continue;
      block.w[r * block.stride + j] = row.w[i];
      errors[r * size + j] = error_of[i];
    }
  }
}

__global__ __launch_bounds__(kGridThreads) void codes_kernel(GridRows grid, const float* w,
                                                             std::uint8_t* codes, std::uint16_t* scales,
                                                             std::uint8_t* zeros) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kGridThreads + threadIdx.x;
  if (i >= grid.rows * grid.cols) return;
  const std::int64_t group = i / grid.width;
  codes[i] = static_cast<std::uint8_t>(code_of(w[i], grid.scales[group]) + grid.zeros[group]);
  if (i % grid.width != 0) return;
  scales[group] = __half_as_ushort(__float2half_rn(grid.scales[group]));
  zeros[group] = static_cast<std::uint8_t>(grid.zeros[group]);
}

template <class T>
__global__ __launch_bounds__(kGridThreads) void target_kernel(const float* right, const float* scale,
                                                              const T* w, const float* norm, float more,
                                                              std::int64_t cols, float* target) {
  const std::int64_t row = std::int64_t{blockIdx.x} * cols;
  const float size = scale[blockIdx.x];
  for (std::int64_t j = threadIdx.x; j < cols; j += kGridThreads)
    target[row + j] = norm[j] * (right[row + j] * size + more * norm[j] * to_float(w[row + j]));
}

__global__ __launch_bounds__(kGridThreads) void start_kernel(const float* z, const float* scale,
                                                             const float* norm, const double* wanted,
                                                             const double* found, std::int64_t cols,
                                                             float* start, float* target) {
  const std::int64_t r = blockIdx.x, row = r * cols;
  float factor = 1.0f;
  if (wanted != nullptr && wanted[r] > 0.0 && found[r] > 0.0)
    factor = static_cast<float>(sqrt(fmin(fmax(sqrt(wanted[r] / found[r]), 0.5), 2.0)));
  const float size = scale[r] * factor;
  for (std::int64_t j = threadIdx.x; j < cols; j += kGridThreads) {
    start[row + j] = z[row + j] * size / norm[j];
    if (target != nullptr) target[row + j] *= factor;
  }
}

template <class T>
__global__ __launch_bounds__(kGridThreads) void masked_kernel(const T* w, const float* from,
                                                              const std::uint8_t* mask, std::int64_t n,
                                                              float* start) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kGridThreads + threadIdx.x;
  if (i >= n) return;
  start[i] = mask[i] == 0 ? 0.0f : from != nullptr ? from[i] : to_float(w[i]);
}

constexpr std::int64_t kMostBlocks = 1024;  // of those that load a corner of a matrix
unsigned row_blocks(std::int64_t rows) {
  const std::int64_t blocks = (rows + kGridWarps - 1) / kGridWarps;
  return static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks);
}
constexpr int kCornerBytes = static_cast<int>(kGridBlock * kGridBlock * sizeof(float));

}  // namespace

void ordered_gram(const float* gram, const std::int32_t* order, std::int64_t n, float* h,
                  cudaStream_t stream) {
  if (n == 0) return;
  gather_square_kernel<<<static_cast<unsigned>(n), kGridThreads, 0, stream>>>(gram, order, n, h);
  check_launch("ordered_gram");
}

void ordered_normalised(const float* h, const float* norm, const std::int32_t* order, std::int64_t n,
                        float shift, float* a, cudaStream_t stream) {
  if (n == 0) return;
  normalise_kernel<<<static_cast<unsigned>(n), kGridThreads, 0, stream>>>(h, norm, order, n, shift, a);
  check_launch("ordered_normalised");
}

void ordered_rescale(float* factor, float* h, const float* norm, const std::int32_t* order, std::int64_t n,
                     float damping, cudaStream_t stream) {
  if (n == 0) return;
  rescale_kernel<<<static_cast<unsigned>(n), kGridThreads, 0, stream>>>(factor, h, norm, order, n, damping);
  check_launch("ordered_rescale");
}

void ordered_diagonal(const float* h, const std::int32_t* order, std::int64_t n, float* diagonal,
                      cudaStream_t stream) {
  if (n == 0) return;
  diagonal_kernel<<<blocks_for(n, kGridThreads), kGridThreads, 0, stream>>>(h, order, n, diagonal);
  check_launch("ordered_diagonal");
}

void order_columns(const GridRows& grid, const float* from, float* to, std::uint8_t* mask, bool back,
                   cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  order_kernel<<<static_cast<unsigned>(grid.rows), kGridThreads, 0, stream>>>(grid, from, to, mask,
                                                                              back ? grid.place : grid.order);
  check_launch("order_columns");
}

void order_mask(const GridRows& grid, const std::uint8_t* from, std::uint8_t* to, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  order_mask_kernel<<<static_cast<unsigned>(grid.rows), kGridThreads, 0, stream>>>(grid, from, to);
  check_launch("order_mask");
}

void range_grids(const GridRows& grid, const float* w, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  range_kernel<<<blocks_for(grid.rows * grid.groups, kGridWarps), kGridThreads, 0, stream>>>(grid, w);
  check_launch("range_grids");
}

void search_grids(const GridRows& grid, const float* w, const float* importance, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  search_kernel<<<blocks_for(grid.rows * grid.groups, kGridWarps), kGridThreads, 0, stream>>>(grid, w,
                                                                                              importance);
  check_launch("search_grids");
}

void round_to_grid(const GridRows& grid, float* w, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  round_kernel<<<blocks_for(grid.rows * grid.cols, kGridThreads), kGridThreads, 0, stream>>>(grid, w);
  check_launch("round_to_grid");
}

void round_grid_block(const GridRows& grid, const GridBlock& block, bool range_on_the_way, float* errors,
                      cudaStream_t stream) {
  if (grid.rows * block.size == 0) return;
  cudaFuncSetAttribute(round_block_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kCornerBytes);
  round_block_kernel<<<row_blocks(grid.rows), kGridThreads, kCornerBytes, stream>>>(grid, block,
                                                                                    range_on_the_way, errors);
  check_launch("round_grid_block");
}

void grid_codes(const GridRows& grid, const float* w, std::uint8_t* codes, std::uint16_t* scales,
                std::uint8_t* zeros, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  codes_kernel<<<blocks_for(grid.rows * grid.cols, kGridThreads), kGridThreads, 0, stream>>>(grid, w, codes,
                                                                                             scales, zeros);
  check_launch("grid_codes");
}

void aligned_grid_target(const float* right, const float* scale, const void* w, DType dtype,
                         const float* norm, float more, std::int64_t rows, std::int64_t cols, float* target,
                         cudaStream_t stream) {
  if (rows * cols == 0) return;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    target_kernel<<<static_cast<unsigned>(rows), kGridThreads, 0, stream>>>(
        right, scale, static_cast<const T*>(w), norm, more, cols, target);
  });
  check_launch("aligned_grid_target");
}

void grid_start(const float* z, const float* scale, const float* norm, const double* wanted,
                const double* found, std::int64_t rows, std::int64_t cols, float* start, float* target,
                cudaStream_t stream) {
  if (rows * cols == 0) return;
  start_kernel<<<static_cast<unsigned>(rows), kGridThreads, 0, stream>>>(z, scale, norm, wanted, found, cols,
                                                                         start, target);
  check_launch("grid_start");
}

void masked_start(const void* w, DType dtype, const float* from, const std::uint8_t* mask, std::int64_t n,
                  float* start, cudaStream_t stream) {
  if (n == 0) return;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    masked_kernel<<<blocks_for(n, kGridThreads), kGridThreads, 0, stream>>>(static_cast<const T*>(w), from,
                                                                            mask, n, start);
  });
  check_launch("masked_start");
}

}  // namespace swiftprune::cuda
