// What makes the error of weights on a grid smaller: weights that move to a better value, exchanges of kept and pruned
// ones, least-squares scales. The meaning of each is refinement/grid_solver.h's.
#include "swiftprune/cuda/refinement/grid.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kTurnColumns = 128;  // that a warp moves before all others learn of it
constexpr int kTurnEach = kTurnColumns / kWarp;
constexpr int kDescentThreads = 128;  // few, so that many rows are under way at once
constexpr int kDescentWarps = kDescentThreads / kWarp;

// Where a weight would go, and whether that is worth it: not for what rounding errors of the gradient could undo.
struct Move {
  float next = 0.0f;
  bool wanted = false;
};
__device__ __forceinline__ Move move_of(const Group& of, float value, float best) {
  const float next = on_grid(of, best);
  return {next, fabsf(next - value) >= 0.5f * of.scale &&
                    fabsf(next - best) <= fabsf(value - best) - 1e-4f * of.scale};
}

// gradient += Σ_m steps_m·h[columns_m] for all columns but those of the turn. Several loads are asked for before the first
// is needed: what binds is how long they take.
template <class Vector>
__device__ __forceinline__ void add_steps(const float* h, int cols, int turn, const float* steps,
                                          const int* columns, int count, float* gradient) {
  constexpr int kWide = sizeof(Vector) / sizeof(float);
  constexpr int kAtOnce = 4;
  auto* const to = reinterpret_cast<Vector*>(gradient);
  const int places = cols / kWide;
  const auto is_other = [&](int at) { return at < places && at * kWide / kTurnColumns != turn; };
  for (int first = static_cast<int>(threadIdx.x); first < places; first += kAtOnce * kDescentThreads) {
    Vector sum[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = first + i * kDescentThreads;
      if (at < places) sum[i] = to[at];
    }
#pragma unroll 2
    for (int m = 0; m < count; ++m) {
      const float step = steps[m];
      const auto* const row = reinterpret_cast<const Vector*>(h + std::int64_t{columns[m]} * cols);
      Vector values[kAtOnce] = {};
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int at = first + i * kDescentThreads;
        if (is_other(at)) values[i] = __ldg(row + at);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if constexpr (kWide == 4) {
          sum[i].x = fmaf(step, values[i].x, sum[i].x);
          sum[i].y = fmaf(step, values[i].y, sum[i].y);
          sum[i].z = fmaf(step, values[i].z, sum[i].z);
          sum[i].w = fmaf(step, values[i].w, sum[i].w);
        } else {
          sum[i] = fmaf(step, values[i], sum[i]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = first + i * kDescentThreads;
      if (is_other(at)) to[at] = sum[i];
    }
  }
}

// A block of threads a row, `sweeps` times over its weights while one moves, each in its turn. Few do, so warps look for
// the next columns with one that wants to; one warp moves those, and then all bring the rest of the gradient up to date.
// Shared memory: the row's gradient.
__global__ __launch_bounds__(kDescentThreads, 8) void descend_kernel(GridRows grid, GridState state,
                                                                     int sweeps) {
  extern __shared__ float4 dynamic[];
  auto* const gradient = reinterpret_cast<float*>(dynamic);
  __shared__ float steps[kTurnColumns];
  __shared__ int columns[kTurnColumns];
  __shared__ int found[kDescentWarps];
  __shared__ int moves;
  const std::int64_t row = blockIdx.x;
  const auto cols = static_cast<int>(grid.cols);
  const int turns = (cols + kTurnColumns - 1) / kTurnColumns;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const float* const scales = grid.scales + row * grid.groups;
  const float* const zeros = grid.zeros + row * grid.groups;
  const auto width = static_cast<int>(grid.width);
  const int top = top_code(grid);
  float* const w = state.w + row * cols;
  const std::uint8_t* const kept = state.kept + row * cols;
  float* const kept_gradient = state.gradient + row * cols;
  const auto move_at = [&](int j, float value, float at) {
    if (j >= cols || kept[j] == 0) return Move{};
    const int group = grid.order[j] / width;
    return move_of(make_group(scales[group], zeros[group], top), value, value - at / state.diagonal[j]);
  };
  for (int j = static_cast<int>(threadIdx.x); j < cols; j += kDescentThreads) gradient[j] = kept_gradient[j];
  __syncthreads();
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    bool any = false;
    for (int next = 0;;) {
      int own = turns;  // none
      for (int c = next + (warp - next % kDescentWarps + kDescentWarps) % kDescentWarps; c < turns;
           c += kDescentWarps) {
        bool wanted = false;
#pragma unroll
        for (int i = 0; i < kTurnEach; ++i) {
          const int j = kTurnColumns * c + kWarp * i + lane;
          if (j < cols) wanted |= move_at(j, w[j], gradient[j]).wanted;
        }
        if (__any_sync(kFullWarp, wanted) == 0) continue;
        own = c;
        break;
      }
      if (lane == 0) found[warp] = own;
      __syncthreads();
      int turn = turns;
      for (int i = 0; i < kDescentWarps; ++i) turn = min(turn, found[i]);
      if (turn == turns) break;  // of all threads alike
      if (warp == turn % kDescentWarps) {
        float at[kTurnEach];
#pragma unroll
        for (int i = 0; i < kTurnEach; ++i) {
          const int j = kTurnColumns * turn + kWarp * i + lane;
          at[i] = j < cols ? gradient[j] : 0.0f;
        }
        int count = 0;
#pragma unroll
        for (int part = 0; part < kTurnEach; ++part) {
          const int j = kTurnColumns * turn + kWarp * part + lane;
          float value = j < cols ? w[j] : 0.0f;
          Move move = move_at(j, value, at[part]);
          for (std::uint32_t left = kFullWarp;;) {
            const std::uint32_t wants = __ballot_sync(kFullWarp, move.wanted) & left;
            if (wants == 0) break;
            const int l = __ffs(static_cast<int>(wants)) - 1;
            left = l == kWarp - 1 ? 0u : kFullWarp << (l + 1);
            const int column = kTurnColumns * turn + kWarp * part + l;
            const float step = __shfl_sync(kFullWarp, move.next - value, l);
            if (lane == l) value = move.next;
            if (lane == 0) {
              steps[count] = step;
              columns[count] = column;
            }
            ++count;
            const float* const h = state.h + std::int64_t{column} * cols + kTurnColumns * turn + lane;
#pragma unroll
            for (int i = 0; i < kTurnEach; ++i) {
              if (kTurnColumns * turn + kWarp * i + lane < cols)
                at[i] = fmaf(step, __ldg(h + kWarp * i), at[i]);
            }
            move = move_at(j, value, at[part]);
          }
          if (j < cols) w[j] = value;
        }
#pragma unroll
        for (int i = 0; i < kTurnEach; ++i) {
          const int j = kTurnColumns * turn + kWarp * i + lane;
          if (j < cols) gradient[j] = at[i];
        }
        if (lane == 0) moves = count;
      }
      __syncthreads();
      if (cols % 4 == 0) {
        add_steps<float4>(state.h, cols, turn, steps, columns, moves, gradient);
      } else {
        add_steps<float>(state.h, cols, turn, steps, columns, moves, gradient);
      }
      __syncthreads();
      any = true;
      next = turn + 1;
    }
    __syncthreads();  // all have read what was found
    if (!any) break;
  }
  for (int j = static_cast<int>(threadIdx.x); j < cols; j += kDescentThreads) kept_gradient[j] = gradient[j];
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
  for (int w = 1; w < kGridWarps; ++w) {
    if (is_better(scratch[w], own)) own = scratch[w];
  }
  return own;
}

// The gradient without a weight and with another one; several loads at once.
__device__ __forceinline__ void change_places(const float* without, float pruned, const float* with,
                                              float restored, std::int64_t cols, float* gradient) {
  constexpr int kAtOnce = 4;
  for (std::int64_t first = threadIdx.x; first < cols; first += kAtOnce * kGridThreads) {
    float values[kAtOnce][3] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const std::int64_t j = first + i * kGridThreads;
      if (j >= cols) continue;
      values[i][0] = gradient[j];
      values[i][1] = __ldg(without + j);
      values[i][2] = __ldg(with + j);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const std::int64_t j = first + i * kGridThreads;
      if (j < cols) gradient[j] = fmaf(restored, values[i][2], fmaf(-pruned, values[i][1], values[i][0]));
    }
  }
}

// A block a row. unit: columns of the file's order that exchange among themselves.
__global__ __launch_bounds__(kGridThreads) void exchange_kernel(GridRows grid, GridState state,
                                                                std::int64_t unit, int most) {
  __shared__ Best prunings[kGridWarps], restorings[kGridWarps];
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
    return on_grid(group_at(j), -gradient[j] / state.diagonal[j]);
  };
  for (std::int64_t begin = 0; begin < cols; begin += unit) {
    for (int done = 0; done < most; ++done) {
      Best pruning{INFINITY, -1}, restoring{0.0, -1};
      for (std::int64_t i = threadIdx.x; i < unit; i += kGridThreads) {
        const std::int64_t j = unit == cols ? i : grid.place[begin + i];
        const auto curvature = static_cast<double>(state.diagonal[j]);
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
      change_places(state.h + p * cols, pruned, state.h + q * cols, restored, cols, gradient);
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

// The same for N:M, whose few columns a thread looks at alone; a block of threads a row. The first unit with a pair that
// helps changes it, again as long as one does, at most `most` times.
struct Exchange {
  std::int64_t p = -1, q = -1;
  float restored = 0.0f;
};
__global__ __launch_bounds__(kGridThreads) void exchange_units_kernel(GridRows grid, GridState state,
                                                                      int unit, int most) {
  __shared__ int found[kGridWarps];
  __shared__ Exchange chosen;
  const std::int64_t cols = grid.cols;
  const std::int64_t row = std::int64_t{blockIdx.x} * cols;
  const int units = static_cast<int>(cols) / unit;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  float* const w = state.w + row;
  float* const gradient = state.gradient + row;
  std::uint8_t* const kept = state.kept + row;
  const auto exchange_of = [&](int u) {
    double pruning = INFINITY, restoring = 0.0;
    Exchange best;
    for (int i = 0; i < unit; ++i) {
      const std::int64_t column = std::int64_t{u} * unit + i;
      const std::int64_t j = grid.place[column];
      const auto curvature = static_cast<double>(state.diagonal[j]);
      const auto slope = static_cast<double>(gradient[j]);
      if (kept[j] != 0) {
        const auto value = static_cast<double>(w[j]);
        const double change = value * (value * curvature - 2.0 * slope);
        if (change < pruning) pruning = change, best.p = j;
      } else {
        const std::int64_t group = std::int64_t{blockIdx.x} * grid.groups + column / grid.width;
        const float restored = on_grid(make_group(grid.scales[group], grid.zeros[group], top_code(grid)),
                                       -gradient[j] / state.diagonal[j]);
        const auto value = static_cast<double>(restored);
        const double change = value * (value * curvature + 2.0 * slope);
        if (change < restoring) restoring = change, best.q = j, best.restored = restored;
      }
    }
    if (best.p < 0 || best.q < 0) return Exchange{};
    const double both = pruning + restoring -
                        2.0 * static_cast<double>(w[best.p]) * static_cast<double>(best.restored) *
                            static_cast<double>(state.h[best.p * cols + best.q]);
    return both < -1e-3 * (fabs(pruning) + fabs(restoring)) ? best : Exchange{};
  };
  int done = 0;  // of the unit `next`
  for (int next = 0;;) {
    int own = units;  // none
    Exchange exchange;
    for (int u = next + static_cast<int>(threadIdx.x); u - lane < units; u += kGridThreads) {
      const bool may = u < units && !(u == next && done == most);
      exchange = may ? exchange_of(u) : Exchange{};
      const std::uint32_t helps = __ballot_sync(kFullWarp, exchange.p >= 0);
      if (helps == 0) continue;
      own = u - lane + __ffs(static_cast<int>(helps)) - 1;
      break;
    }
    if (lane == 0) found[warp] = own;
    __syncthreads();
    int first = units;
    for (int i = 0; i < kGridWarps; ++i) first = min(first, found[i]);
    if (first == units) return;  // all threads
    if (own == first && exchange.p >= 0 && (first - next) % kWarp == lane) chosen = exchange;
    __syncthreads();
    const Exchange taken = chosen;
    const float pruned = w[taken.p];
    __syncthreads();  // all have read what changes now
    change_places(state.h + taken.p * cols, pruned, state.h + taken.q * cols, taken.restored, cols, gradient);
    if (threadIdx.x == 0) {
      w[taken.p] = 0.0f;
      w[taken.q] = taken.restored;
      kept[taken.p] = 0;
      kept[taken.q] = 1;
    }
    __syncthreads();
    done = first == next ? done + 1 : 1;
    next = first;
  }
}

// A block a row, a warp a group.
__global__ __launch_bounds__(kGridThreads) void direction_kernel(GridRows grid, GridState state,
                                                                 GridScales fit, bool first) {
  __shared__ double scratch[kWarp + 1];
  const std::int64_t cols = grid.cols, groups = grid.groups;
  const std::int64_t row = std::int64_t{blockIdx.x} * cols, own = std::int64_t{blockIdx.x} * groups;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* gradient = first ? state.gradient + row : fit.gradient + row;
  // z of each group lies in v's first places for a moment: v is written anew below.
  float* z = fit.v + row;
  double slope = 0.0;
  for (std::int64_t g = threadIdx.x / kWarp; g < groups; g += kGridWarps) {
    const float scale = grid.scales[own + g];
    double residual = 0.0, curvature = 0.0;
    for (std::int64_t c = lane; c < grid.width; c += kWarp) {
      const std::int64_t j = grid.place[g * grid.width + c];
      const auto q = static_cast<double>(code_of(state.w[row + j], scale));
      residual -= q * static_cast<double>(gradient[j]);
      curvature += q * q * static_cast<double>(state.diagonal[j]);
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
  for (std::int64_t g = threadIdx.x; g < groups; g += kGridThreads)
    fit.direction[own + g] = z[g] + (first ? 0.0f : turn * fit.direction[own + g]);
  __syncthreads();
  if (threadIdx.x == 0) fit.slope[blockIdx.x] = slope;
  for (std::int64_t j = threadIdx.x; j < cols; j += kGridThreads) {
    const std::int64_t g = std::int64_t{grid.order[j]} / grid.width;
    if (first) fit.gradient[row + j] = state.gradient[row + j];
    fit.v[row + j] = code_of(state.w[row + j], grid.scales[own + g]) * fit.direction[own + g];
  }
}

__global__ __launch_bounds__(kGridThreads) void step_kernel(GridRows grid, GridScales fit) {
  __shared__ double scratch[kWarp + 1];
  const std::int64_t row = std::int64_t{blockIdx.x} * grid.cols, own = std::int64_t{blockIdx.x} * grid.groups;
  double curvature = 0.0;
  for (std::int64_t j = threadIdx.x; j < grid.cols; j += kGridThreads)
    curvature += static_cast<double>(fit.v[row + j]) * static_cast<double>(fit.vh[row + j]);
  curvature = block_sum(curvature, scratch);
  // The direction is conjugate to those before, so the residual's slope along it is its own.
  const auto length = static_cast<float>(curvature > 0.0 ? fit.slope[blockIdx.x] / curvature : 0.0);
  for (std::int64_t g = threadIdx.x; g < grid.groups; g += kGridThreads)
    fit.scales[own + g] = fmaf(length, fit.direction[own + g], fit.scales[own + g]);
  for (std::int64_t j = threadIdx.x; j < grid.cols; j += kGridThreads)
    fit.gradient[row + j] = fmaf(length, fit.vh[row + j], fit.gradient[row + j]);
}

__global__ __launch_bounds__(kGridThreads) void changes_kernel(GridRows grid, GridState state,
                                                               GridScales fit) {
  const std::int64_t row = std::int64_t{blockIdx.x} * grid.cols, own = std::int64_t{blockIdx.x} * grid.groups;
  for (std::int64_t g = threadIdx.x; g < grid.groups; g += kGridThreads) {
    const float before = grid.scales[own + g];
    // A scale that leaves the old one far behind belongs to codes that no longer fit.
    fit.scales[own + g] =
        scale_of(static_cast<double>(fminf(fmaxf(fit.scales[own + g], 0.5f * before), 2.0f * before)));
  }
  __syncthreads();
  for (std::int64_t j = threadIdx.x; j < grid.cols; j += kGridThreads) {
    const std::int64_t g = own + std::int64_t{grid.order[j]} / grid.width;
    const float w = state.w[row + j];
    fit.v[row + j] = code_of(w, grid.scales[g]) * fit.scales[g] - w;
  }
}

__global__ __launch_bounds__(kGridThreads) void take_kernel(GridRows grid, GridState state, GridScales fit) {
  __shared__ double scratch[kWarp + 1];
  const std::int64_t row = std::int64_t{blockIdx.x} * grid.cols, own = std::int64_t{blockIdx.x} * grid.groups;
  double change = 0.0;
  for (std::int64_t j = threadIdx.x; j < grid.cols; j += kGridThreads) {
    change += static_cast<double>(fit.v[row + j]) *
              (2.0 * static_cast<double>(state.gradient[row + j]) + static_cast<double>(fit.vh[row + j]));
  }
  change = block_sum(change, scratch);
  if (!(change < 0.0)) return;
  for (std::int64_t j = threadIdx.x; j < grid.cols; j += kGridThreads) {
    const std::int64_t g = own + std::int64_t{grid.order[j]} / grid.width;
    state.w[row + j] = code_of(state.w[row + j], grid.scales[g]) * fit.scales[g];
    state.gradient[row + j] += fit.vh[row + j];
  }
  __syncthreads();
  for (std::int64_t g = threadIdx.x; g < grid.groups; g += kGridThreads)
    grid.scales[own + g] = fit.scales[own + g];
}

}  // namespace

void descend_on_grid(const GridRows& grid, const GridState& state, int sweeps, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  const auto shared = static_cast<int>(grid.cols * static_cast<std::int64_t>(sizeof(float)));
  cudaFuncSetAttribute(descend_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  descend_kernel<<<static_cast<unsigned>(grid.rows), kDescentThreads, static_cast<std::size_t>(shared),
                   stream>>>(grid, state, sweeps);
  check_launch("descend_on_grid");
}

void exchange_weights(const GridRows& grid, const GridState& state, std::int64_t unit, int most,
                      cudaStream_t stream) {
  if (grid.rows * grid.cols == 0 || unit == 0) return;
  if (unit <= kWarp) {
    exchange_units_kernel<<<static_cast<unsigned>(grid.rows), kGridThreads, 0, stream>>>(
        grid, state, static_cast<int>(unit), most);
    return check_launch("exchange_weights");
  }
  exchange_kernel<<<static_cast<unsigned>(grid.rows), kGridThreads, 0, stream>>>(grid, state, unit, most);
  check_launch("exchange_weights");
}

void next_scale_direction(const GridRows& grid, const GridState& state, const GridScales& fit, bool first,
                          cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  direction_kernel<<<static_cast<unsigned>(grid.rows), kGridThreads, 0, stream>>>(grid, state, fit, first);
  check_launch("next_scale_direction");
}

void step_scales(const GridRows& grid, const GridScales& fit, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  step_kernel<<<static_cast<unsigned>(grid.rows), kGridThreads, 0, stream>>>(grid, fit);
  check_launch("step_scales");
}

void changes_of_scales(const GridRows& grid, const GridState& state, const GridScales& fit,
                       cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  changes_kernel<<<static_cast<unsigned>(grid.rows), kGridThreads, 0, stream>>>(grid, state, fit);
  check_launch("changes_of_scales");
}

void take_scales(const GridRows& grid, const GridState& state, const GridScales& fit, cudaStream_t stream) {
  if (grid.rows * grid.cols == 0) return;
  take_kernel<<<static_cast<unsigned>(grid.rows), kGridThreads, 0, stream>>>(grid, state, fit);
  check_launch("take_scales");
}

}  // namespace swiftprune::cuda
