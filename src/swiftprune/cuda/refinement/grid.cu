// Weights on a grid of few bits: scales by range and by search, columns rounded with compensation, descent on the error,
// exchanges of kept and pruned weights, least-squares scales. The meaning of each is refinement/grid_solver.h's; sums have a
// fixed order, so equal runs give equal bits.
#include "swiftprune/cuda/refinement/grid_kernels.h"

#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kEach = static_cast<int>(kGridBlock) / kWarp;  // columns of a lane: lane + 32·i

__device__ __forceinline__ int top_code(const GridRows& grid) { return (1 << grid.bits) - 1; }
__device__ __forceinline__ float middle_code(const GridRows& grid) {
  return static_cast<float>(1 << (grid.bits - 1));
}

// The nearest f16 that is normal.
__device__ __forceinline__ float scale_of(double scale) {
  const double inside = fmin(fmax(scale, 6.103515625e-05), 65504.0);
  return __half2float(__float2half_rn(static_cast<float>(inside)));
}

struct Group {
  float scale = 1.0f, lowest = 0.0f, highest = 0.0f;
};
__device__ __forceinline__ Group make_group(float scale, float zero, int top) {
  return {scale, -zero, static_cast<float>(top) - zero};
}
__device__ __forceinline__ float on_grid(const Group& group, float value) {
  return group.scale * rintf(fminf(fmaxf(value / group.scale, group.lowest), group.highest));
}

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

__global__ __launch_bounds__(kThreads) void gather_square_kernel(const float* gram, const std::int32_t* order,
                                                                 std::int64_t n, float* h) {
  const std::int64_t i = blockIdx.x;
  const float* row = gram + std::int64_t{order[i]} * n;
  for (std::int64_t j = threadIdx.x; j < n; j += kThreads) h[i * n + j] = row[order[j]];
}

__global__ __launch_bounds__(kThreads) void normalise_kernel(const float* h, const float* norm,
                                                             const std::int32_t* order, std::int64_t n,
                                                             float shift, float* a) {
  const std::int64_t i = blockIdx.x;
  const float own = 1.0f / norm[order[i]];
  for (std::int64_t j = threadIdx.x; j < n; j += kThreads)
    a[i * n + j] = h[i * n + j] * own / norm[order[j]] + (i == j ? shift : 0.0f);
}

__global__ __launch_bounds__(kThreads) void rescale_kernel(float* factor, float* h, const float* norm,
                                                           const std::int32_t* order, std::int64_t n,
                                                           float damping) {
  const std::int64_t i = blockIdx.x;
  for (std::int64_t j = threadIdx.x; j < n; j += kThreads) factor[i * n + j] /= norm[order[j]];
  if (threadIdx.x == 0) {
    const float size = norm[order[i]];
    h[i * n + i] += damping * size * size;
  }
}

__global__ __launch_bounds__(kThreads) void diagonal_kernel(const float* h, const std::int32_t* order,
                                                            std::int64_t n, float* diagonal) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) diagonal[order[i]] = h[i * n + i];
}

__global__ __launch_bounds__(kThreads) void order_kernel(GridRows grid, const float* from, float* to,
                                                         std::uint8_t* mask, const std::int32_t* source) {
  const std::int64_t row = std::int64_t{blockIdx.x} * grid.cols;
  for (std::int64_t j = threadIdx.x; j < grid.cols; j += kThreads) {
    const float value = from[row + source[j]];
    to[row + j] = value;
    if (mask != nullptr) mask[row + j] = value != 0.0f ? 1 : 0;
  }
}

__global__ __launch_bounds__(kThreads) void order_mask_kernel(GridRows grid, const std::uint8_t* from,
                                                              std::uint8_t* to) {
  const std::int64_t row = std::int64_t{blockIdx.x} * grid.cols;
  for (std::int64_t j = threadIdx.x; j < grid.cols; j += kThreads) to[row + j] = from[row + grid.order[j]];
}

// A warp a group.
__global__ __launch_bounds__(kThreads) void range_kernel(GridRows grid, const float* w) {
  const std::int64_t group = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
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

__global__ __launch_bounds__(kThreads) void search_kernel(GridRows grid, const float* w,
                                                          const float* importance) {
  constexpr int kShares = 40;  // as refinement/grid_search.cpp
  constexpr double kLeastShare = 0.4, kLargestShare = 1.15;
  const std::int64_t group = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
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

__global__ __launch_bounds__(kThreads) void round_kernel(GridRows grid, float* w) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= grid.rows * grid.cols) return;
  const std::int64_t group = i / grid.width;
  w[i] = on_grid(make_group(grid.scales[group], grid.zeros[group], top_code(grid)), w[i]);
}

// The block's corner of a matrix on the diagonal, to shared memory [size, kGridBlock].
__device__ __forceinline__ void load_corner(const GridBlock& block, float* shared) {
  const int size = block.size;
  for (int i = static_cast<int>(threadIdx.x); i < size * size; i += kThreads)
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

__global__ __launch_bounds__(kThreads) void round_block_kernel(GridRows grid, GridBlock block,
                                                               bool on_the_way, float* errors) {
  extern __shared__ float factor[];
  load_corner(block, factor);
  __syncthreads();
  const int size = block.size;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int top = top_code(grid);
  for (std::int64_t r = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; r < grid.rows;
       r += std::int64_t{gridDim.x} * kWarps) {
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

__global__ __launch_bounds__(kThreads) void descend_kernel(GridRows grid, GridBlock block, float* gradient,
                                                           float* change, std::int64_t change_stride,
                                                           unsigned long long* moved) {
  extern __shared__ float h[];
  load_corner(block, h);
  __syncthreads();
  const int size = block.size;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int top = top_code(grid);
  unsigned count = 0;
  for (std::int64_t r = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; r < grid.rows;
       r += std::int64_t{gridDim.x} * kWarps) {
    Lanes4 row;
    load_row(grid, block, r, lane, row);
    float g[kEach], before[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int j = lane + kWarp * i;
      g[i] = j < size ? gradient[r * block.stride + j] : 0.0f;
      before[i] = row.w[i];
    }
#pragma unroll
    for (int part = 0; part < kEach; ++part) {
      for (int l = 0; l < kWarp; ++l) {
        const int j = part * kWarp + l;
        if (j >= size) break;
        if (((row.kept[part] >> l) & 1u) == 0) continue;
        const float* h_row = h + j * kGridBlock;
        const float value = __shfl_sync(kFullWarp, row.w[part], l);
        const Group group = make_group(__shfl_sync(kFullWarp, row.scale[part], l),
                                       __shfl_sync(kFullWarp, row.zero[part], l), top);
        const float best = value - __shfl_sync(kFullWarp, g[part], l) / h_row[j];
        const float next = on_grid(group, best);
        // Not for what rounding errors of the gradient could undo.
        if (fabsf(next - value) < 0.5f * group.scale ||
            fabsf(next - best) > fabsf(value - best) - 1e-4f * group.scale)
          continue;
        const float step = next - value;
        if (lane == l) row.w[part] = next;
        ++count;
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          const int k = lane + kWarp * i;
          if (k < size) g[i] = fmaf(step, h_row[k], g[i]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int j = lane + kWarp * i;
      if (j >= size) continue;
      block.w[r * block.stride + j] = row.w[i];
      gradient[r * block.stride + j] = g[i];
      change[r * change_stride + j] = row.w[i] - before[i];
    }
  }
  if (lane == 0 && count > 0) atomicAdd(moved, static_cast<unsigned long long>(count));
}

// The least of the block's values; ties to the lower place. Both end in every thread.
struct Best {
  double change = 0.0;
  std::int64_t at = -1;
};
__device__ __forceinline__ bool is_better(const Best& a, const Best& b) {
  if (b.at < 0) return a.at >= 0;
  return a.at >= 0 && (a.change < b.change || (a.change == b.change && a.at < b.at));
}
__device__ __forceinline__ Best block_best(Best own, Best* scratch) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const Best other{
        __shfl_xor_sync(kFullWarp, own.change, offset),
        static_cast<std::int64_t>(__shfl_xor_sync(kFullWarp, static_cast<long long>(own.at), offset))};
    if (is_better(other, own)) own = other;
  }
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = own;
  __syncthreads();
  own = scratch[0];
  for (int w = 1; w < kWarps; ++w) {
    if (is_better(scratch[w], own)) own = scratch[w];
  }
  return own;
}

// A block a row. unit: columns of the file's order that exchange among themselves.
__global__ __launch_bounds__(kThreads) void exchange_kernel(GridRows grid, GridState state, std::int64_t unit,
                                                            int most) {
  __shared__ Best prunings[kWarps], restorings[kWarps];
  const std::int64_t cols = grid.cols;
  const std::int64_t row = std::int64_t{blockIdx.x} * cols;
  const int top = top_code(grid);
  float* w = state.w + row;
  float* gradient = state.gradient + row;
  std::uint8_t* kept = state.kept + row;
  const auto group_at = [&](std::int64_t j) {
    const std::int64_t group =
        std::int64_t{blockIdx.x} * grid.groups + std::int64_t{grid.order[j]} / grid.width;
    return make_group(grid.scales[group], grid.zeros[group], top);
  };
  const auto restored_at = [&](std::int64_t j) {
    return on_grid(group_at(j), -gradient[j] / state.h[j * cols + j]);
  };
  for (std::int64_t begin = 0; begin < cols; begin += unit) {
    for (int done = 0; done < most; ++done) {
      Best pruning{INFINITY, -1}, restoring{0.0, -1};
      for (std::int64_t i = threadIdx.x; i < unit; i += kThreads) {
        const std::int64_t j = unit == cols ? i : grid.place[begin + i];
        const auto curvature = static_cast<double>(state.h[j * cols + j]);
        const auto slope = static_cast<double>(gradient[j]);
        if (kept[j] != 0) {
          const auto value = static_cast<double>(w[j]);
          const Best found{value * (value * curvature - 2.0 * slope), j};
          if (found.change < INFINITY && is_better(found, pruning)) pruning = found;
        } else {
          const auto value = static_cast<double>(restored_at(j));
          const Best found{value * (value * curvature + 2.0 * slope), j};
          if (found.change < 0.0 && is_better(found, restoring)) restoring = found;
        }
      }
      pruning = block_best(pruning, prunings);
      restoring = block_best(restoring, restorings);
      if (pruning.at < 0 || restoring.at < 0) break;  // of all threads alike
      const std::int64_t p = pruning.at, q = restoring.at;
      const float pruned = w[p], restored = restored_at(q);
      const double both = pruning.change + restoring.change -
                          2.0 * static_cast<double>(pruned) * static_cast<double>(restored) *
                              static_cast<double>(state.h[p * cols + q]);
      if (!(both < -1e-3 * (fabs(pruning.change) + fabs(restoring.change)))) break;
      __syncthreads();  // all have read what changes now
      for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
        const float without = fmaf(-pruned, state.h[p * cols + j], gradient[j]);
        gradient[j] = fmaf(restored, state.h[q * cols + j], without);
      }
      if (threadIdx.x == 0) {
        w[p] = 0.0f;
        w[q] = restored;
        kept[p] = 0;
        kept[q] = 1;
      }
      __syncthreads();
    }
    __syncthreads();
  }
}

__device__ __forceinline__ float code_of(float w, float scale) { return rintf(w / scale); }

// A block a row, a warp a group.
__global__ __launch_bounds__(kThreads) void direction_kernel(GridRows grid, GridState state, GridScales fit,
                                                             bool first) {
  __shared__ double scratch[kWarp + 1];
  const std::int64_t cols = grid.cols, groups = grid.groups;
  const std::int64_t row = std::int64_t{blockIdx.x} * cols, own = std::int64_t{blockIdx.x} * groups;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* gradient = first ? state.gradient + row : fit.gradient + row;
  // z of each group lies in v's first places for a moment: v is written anew below.
  float* z = fit.v + row;
  double slope = 0.0;
  for (std::int64_t g = threadIdx.x / kWarp; g < groups; g += kWarps) {
    const float scale = grid.scales[own + g];
    double residual = 0.0, curvature = 0.0;
    for (std::int64_t c = lane; c < grid.width; c += kWarp) {
      const std::int64_t j = grid.place[g * grid.width + c];
      const auto q = static_cast<double>(code_of(state.w[row + j], scale));
      residual -= q * static_cast<double>(gradient[j]);
      curvature += q * q * static_cast<double>(state.h[j * cols + j]);
    }
    residual = warp_sum(residual);
    curvature = warp_sum(curvature);
    const double step = curvature > 0.0 ? residual / curvature : 0.0;
    if (lane == 0) {
      z[g] = static_cast<float>(step);
      slope += residual * step;
      if (first) fit.scales[own + g] = scale;
    }
  }
  slope = block_sum(slope, scratch);
  __syncthreads();
  const double before = first ? 0.0 : fit.slope[blockIdx.x];
  const auto turn = static_cast<float>(before > 0.0 ? slope / before : 0.0);
  for (std::int64_t g = threadIdx.x; g < groups; g += kThreads)
    fit.direction[own + g] = z[g] + (first ? 0.0f : turn * fit.direction[own + g]);
  __syncthreads();
  if (threadIdx.x == 0) fit.slope[blockIdx.x] = slope;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    const std::int64_t g = std::int64_t{grid.order[j]} / grid.width;
    if (first) fit.gradient[row + j] = state.gradient[row + j];
    fit.v[row + j] = code_of(state.w[row + j], grid.scales[own + g]) * fit.direction[own + g];
  }
}

__global__ __launch_bounds__(kThreads) void step_kernel(GridRows grid, GridScales fit) {
  __shared__ double scratch[kWarp + 1];
  const std::int64_t row = std::int64_t{blockIdx.x} * grid.cols, own = std::int64_t{blockIdx.x} * grid.groups;
  double curvature = 0.0;
  for (std::int64_t j = threadIdx.x; j < grid.cols; j += kThreads)
    curvature += static_cast<double>(fit.v[row + j]) * static_cast<double>(fit.vh[row + j]);
  curvature = block_sum(curvature, scratch);
  // The direction is conjugate to those before, so the residual's slope along it is its own.
  const auto length = static_cast<float>(curvature > 0.0 ? fit.slope[blockIdx.x] / curvature : 0.0);
  for (std::int64_t g = threadIdx.x; g < grid.groups; g += kThreads)
    fit.scales[own + g] = fmaf(length, fit.direction[own + g], fit.scales[own + g]);
  for (std::int64_t j = threadIdx.x; j < grid.cols; j += kThreads)
    fit.gradient[row + j] = fmaf(length, fit.vh[row + j], fit.gradient[row + j]);
}

__global__ __launch_bounds__(kThreads) void changes_kernel(GridRows grid, GridState state, GridScales fit) {
  const std::int64_t row = std::int64_t{blockIdx.x} * grid.cols, own = std::int64_t{blockIdx.x} * grid.groups;
  for (std::int64_t g = threadIdx.x; g < grid.groups; g += kThreads) {
    const float before = grid.scales[own + g];
    // A scale that leaves the old one far behind belongs to codes that no longer fit.
    fit.scales[own + g] =
        scale_of(static_cast<double>(fminf(fmaxf(fit.scales[own + g], 0.5f * before), 2.0f * before)));
  }
  __syncthreads();
  for (std::int64_t j = threadIdx.x; j < grid.cols; j += kThreads) {
    const std::int64_t g = own + std::int64_t{grid.order[j]} / grid.width;
    const float w = state.w[row + j];
    fit.v[row + j] = code_of(w, grid.scales[g]) * fit.scales[g] - w;
  }
}

__global__ __launch_bounds__(kThreads) void take_kernel(GridRows grid, GridState state, GridScales fit) {
  __shared__ double scratch[kWarp + 1];
  const std::int64_t row = std::int64_t{blockIdx.x} * grid.cols, own = std::int64_t{blockIdx.x} * grid.groups;
  double change = 0.0;
  for (std::int64_t j = threadIdx.x; j < grid.cols; j += kThreads) {
    change += static_cast<double>(fit.v[row + j]) *
              (2.0 * static_cast<double>(state.gradient[row + j]) + static_cast<double>(fit.vh[row + j]));
  }
  change = block_sum(change, scratch);
  if (!(change < 0.0)) return;
  for (std::int64_t j = threadIdx.x; j < grid.cols; j += kThreads) {
    const std::int64_t g = own + std::int64_t{grid.order[j]} / grid.width;
    state.w[row + j] = code_of(state.w[row + j], grid.scales[g]) * fit.scales[g];
    state.gradient[row + j] += fit.vh[row + j];
  }
  __syncthreads();
  for (std::int64_t g = threadIdx.x; g < grid.groups; g += kThreads)
    grid.scales[own + g] = fit.scales[own + g];
}

__global__ __launch_bounds__(kThreads) void codes_kernel(GridRows grid, const float* w, std::uint8_t* codes,
                                                         std::uint16_t* scales, std::uint8_t* zeros) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= grid.rows * grid.cols) return;
  const std::int64_t group = i / grid.width;
  codes[i] = static_cast<std::uint8_t>(code_of(w[i], grid.scales[group]) + grid.zeros[group]);
  if (i % grid.width != 0) return;
  scales[group] = __half_as_ushort(__float2half_rn(grid.scales[group]));
  zeros[group] = static_cast<std::uint8_t>(grid.zeros[group]);
}

template <class T>
__global__ __launch_bounds__(kThreads) void target_kernel(const float* right, const float* scale, const T* w,
                                                          const float* norm, float more, std::int64_t cols,
                                                          float* target) {
  const std::int64_t row = std::int64_t{blockIdx.x} * cols;
  const float size = scale[blockIdx.x];
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads)
    target[row + j] = norm[j] * (right[row + j] * size + more * norm[j] * to_float(w[row + j]));
}

__global__ __launch_bounds__(kThreads) void start_kernel(const float* z, const float* scale,
                                                         const float* norm, const double* wanted,
                                                         const double* found, std::int64_t cols, float* start,
                                                         float* target) {
  const std::int64_t r = blockIdx.x, row = r * cols;
  float factor = 1.0f;
  if (wanted != nullptr && wanted[r] > 0.0 && found[r] > 0.0)
    factor = static_cast<float>(sqrt(fmin(fmax(sqrt(wanted[r] / found[r]), 0.5), 2.0)));
  const float size = scale[r] * factor;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    start[row + j] = z[row + j] * size / norm[j];
    if (target != nullptr) target[row + j] *= factor;
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void masked_kernel(const T* w, const float* from,
                                                          const std::uint8_t* mask, std::int64_t n,
                                                          float* start) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  start[i] = mask[i] == 0 ? 0.0f : from != nullptr ? from[i] : to_float(w[i]);
}

constexpr std::int64_t kMostBlocks = 1024;  // of those that load a corner of a matrix
unsigned row_blocks(std::int64_t rows) {
  const std::int64_t blocks = (rows + kWarps - 1) / kWarps;
  return static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks);
}
constexpr int kCornerBytes = static_cast<int>(kGridBlock * kGridBlock * sizeof(float));

}  // namespace

void ordered_gram(const float* gram, const std::int32_t* order, std::int64_t n, float* h,
                  cudaStream_t stream) {
  if (n == 0) return;
  gather_square_kernel<<<static_cast<unsigned>(n), kThreads, 0, stream>>>(gram, order, n, h);
  check_launch("ordered_gram");
}

void ordered_normalised(const float* h, const float* norm, const std::int32_t* order, std::int64_t n,
                        float shift, float* a, cudaStream_t stream) {
  if (n == 0) return;
  normalise_kernel<<<static_cast<unsigned>(n), kThreads, 0, stream>>>(h, norm, order, n, shift, a);
  check_launch("ordered_normalised");
}

void ordered_rescale(float* factor, float* h, const float* norm, const std::int32_t* order, std::int64_t n,
                     float damping, cudaStream_t stream) {
  if (n == 0) return;
  rescale_kernel<<<static_cast<unsigned>(n), kThreads, 0, stream>>>(factor, h, norm, order, n, damping);
  check_launch("ordered_rescale");
}

void ordered_diagonal(const float* h, const std::int32_t* order, std::int64_t n, float* diagonal,
                      cudaStream_t stream) {
  if (n == 0) return;
  diagonal_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream>>>(h, order, n, diagonal);
  check_launch("ordered_diagonal");
}

void order_columns(const GridRows& grid, const float* from, float* to, std::uint8_t* mask, bool back,
                   cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  order_kernel<<<static_cast<unsigned>(grid.rows), kThreads, 0, stream>>>(grid, from, to, mask,
                                                                          back ? grid.place : grid.order);
  check_launch("order_columns");
}

void order_mask(const GridRows& grid, const std::uint8_t* from, std::uint8_t* to, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  order_mask_kernel<<<static_cast<unsigned>(grid.rows), kThreads, 0, stream>>>(grid, from, to);
  check_launch("order_mask");
}

void range_grids(const GridRows& grid, const float* w, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  range_kernel<<<blocks_for(grid.rows * grid.groups, kWarps), kThreads, 0, stream>>>(grid, w);
  check_launch("range_grids");
}

void search_grids(const GridRows& grid, const float* w, const float* importance, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  search_kernel<<<blocks_for(grid.rows * grid.groups, kWarps), kThreads, 0, stream>>>(grid, w, importance);
  check_launch("search_grids");
}

void round_to_grid(const GridRows& grid, float* w, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  round_kernel<<<blocks_for(grid.rows * grid.cols, kThreads), kThreads, 0, stream>>>(grid, w);
  check_launch("round_to_grid");
}

void round_grid_block(const GridRows& grid, const GridBlock& block, bool range_on_the_way, float* errors,
                      cudaStream_t stream) {
  if (grid.rows * block.size == 0) return;
  cudaFuncSetAttribute(round_block_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kCornerBytes);
  round_block_kernel<<<row_blocks(grid.rows), kThreads, kCornerBytes, stream>>>(grid, block, range_on_the_way,
                                                                                errors);
  check_launch("round_grid_block");
}

void descend_grid_block(const GridRows& grid, const GridBlock& block, float* gradient, float* change,
                        std::int64_t change_stride, unsigned long long* moved, cudaStream_t stream) {
  if (grid.rows * block.size == 0) return;
  cudaFuncSetAttribute(descend_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kCornerBytes);
  descend_kernel<<<row_blocks(grid.rows), kThreads, kCornerBytes, stream>>>(grid, block, gradient, change,
                                                                            change_stride, moved);
  check_launch("descend_grid_block");
}

void exchange_weights(const GridRows& grid, const GridState& state, std::int64_t unit, int most,
                      cudaStream_t stream) {
  if (grid.rows * grid.cols == 0 || unit == 0) return;
  exchange_kernel<<<static_cast<unsigned>(grid.rows), kThreads, 0, stream>>>(grid, state, unit, most);
  check_launch("exchange_weights");
}

void next_scale_direction(const GridRows& grid, const GridState& state, const GridScales& fit, bool first,
                          cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  direction_kernel<<<static_cast<unsigned>(grid.rows), kThreads, 0, stream>>>(grid, state, fit, first);
  check_launch("next_scale_direction");
}

void step_scales(const GridRows& grid, const GridScales& fit, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  step_kernel<<<static_cast<unsigned>(grid.rows), kThreads, 0, stream>>>(grid, fit);
  check_launch("step_scales");
}

void changes_of_scales(const GridRows& grid, const GridState& state, const GridScales& fit,
                       cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  changes_kernel<<<static_cast<unsigned>(grid.rows), kThreads, 0, stream>>>(grid, state, fit);
  check_launch("changes_of_scales");
}

void take_scales(const GridRows& grid, const GridState& state, const GridScales& fit, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  take_kernel<<<static_cast<unsigned>(grid.rows), kThreads, 0, stream>>>(grid, state, fit);
  check_launch("take_scales");
}

void grid_codes(const GridRows& grid, const float* w, std::uint8_t* codes, std::uint16_t* scales,
                std::uint8_t* zeros, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  codes_kernel<<<blocks_for(grid.rows * grid.cols, kThreads), kThreads, 0, stream>>>(grid, w, codes, scales,
                                                                                     zeros);
  check_launch("grid_codes");
}

void aligned_grid_target(const float* right, const float* scale, const void* w, DType dtype,
                         const float* norm, float more, std::int64_t rows, std::int64_t cols, float* target,
                         cudaStream_t stream) {
  if (rows * cols == 0) return;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    target_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(
        right, scale, static_cast<const T*>(w), norm, more, cols, target);
  });
  check_launch("aligned_grid_target");
}

void grid_start(const float* z, const float* scale, const float* norm, const double* wanted,
                const double* found, std::int64_t rows, std::int64_t cols, float* start, float* target,
                cudaStream_t stream) {
  if (rows * cols == 0) return;
  start_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(z, scale, norm, wanted, found, cols,
                                                                     start, target);
  check_launch("grid_start");
}

void masked_start(const void* w, DType dtype, const float* from, const std::uint8_t* mask, std::int64_t n,
                  float* start, cudaStream_t stream) {
  if (n == 0) return;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    masked_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream>>>(static_cast<const T*>(w), from, mask, n,
                                                                    start);
  });
  check_launch("masked_start");
}

}  // namespace swiftprune::cuda
