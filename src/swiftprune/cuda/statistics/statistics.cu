// Sums over columns of tall matrices in one pass, in a fixed order: each block sums a strip of rows, and a
// second kernel adds the strips' sums in double.
#include <algorithm>

#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 128;

struct StripSums {  // [strips, cols] each
  float* squares;
  float* values;
  float* peaks;
};

// Short strips keep the GPU busy on one window, long ones leave little to add up.
std::int64_t rows_per_strip(std::int64_t rows) { return std::clamp<std::int64_t>(rows / 32, 32, 256); }
std::int64_t num_strips(std::int64_t rows) {
  return (rows + rows_per_strip(rows) - 1) / rows_per_strip(rows);
}

// kSpan columns a thread. kAbsolute: |x| in place of x in the plain sums, and no squares.
template <class T, int kSpan, bool kAbsolute>
__global__ __launch_bounds__(kThreads) void strip_kernel(const T* x, std::int64_t rows, std::int64_t cols,
                                                         std::int64_t strip_rows, StripSums out) {
  const std::int64_t column = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kSpan;
  if (column >= cols) return;
  const std::int64_t first = std::int64_t{blockIdx.y} * strip_rows;
  const std::int64_t last = first + strip_rows < rows ? first + strip_rows : rows;
  float squares[kSpan] = {};
  float values[kSpan] = {};
  float peaks[kSpan] = {};
  const auto add = [&](const T* v) {
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      const float value = kAbsolute ? fabsf(to_float(v[i])) : to_float(v[i]);
      if (!kAbsolute) squares[i] = fmaf(value, value, squares[i]);
      values[i] += value;
      if (!kAbsolute) peaks[i] = fmaxf(peaks[i], fabsf(value));
    }
  };
  constexpr int kAhead = 8;  // loads in flight
  std::int64_t r = first;
  for (; r + kAhead <= last; r += kAhead) {
    Eight<T> v[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if constexpr (kSpan == 8) {
        v[a] = load_eight(x + (r + a) * cols + column);
      } else {
        v[a].v[0] = x[(r + a) * cols + column];
      }
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) add(v[a].v);
  }
  for (; r < last; ++r) add(x + r * cols + column);
  const std::int64_t at = std::int64_t{blockIdx.y} * cols + column;
#pragma unroll
  for (int i = 0; i < kSpan; ++i) {
    if (out.squares != nullptr) out.squares[at + i] = squares[i];
    if (out.values != nullptr) out.values[at + i] = values[i];
    if (out.peaks != nullptr) out.peaks[at + i] = peaks[i];
  }
}

// A warp's lanes are columns; the block's warps share the strips of each, and their sums are added in order.
constexpr int kFinishWarps = 16;
__global__ __launch_bounds__(kWarp* kFinishWarps) void finish_kernel(StripSums in, std::int64_t strips,
                                                                     StatisticsArgs args) {
  __shared__ double squares[kFinishWarps][kWarp];
  __shared__ double values[kFinishWarps][kWarp];
  __shared__ float peaks[kFinishWarps][kWarp];
  const int lane = static_cast<int>(threadIdx.x);
  const int warp = static_cast<int>(threadIdx.y);
  const std::int64_t j = std::int64_t{blockIdx.x} * kWarp + lane;
  double square = 0.0;
  double value = 0.0;
  float peak = 0.0f;
#pragma unroll 4
  for (std::int64_t s = warp; s < strips; s += kFinishWarps) {
    if (j >= args.cols) break;
    if (in.squares != nullptr) square += static_cast<double>(in.squares[s * args.cols + j]);
    if (in.values != nullptr) value += static_cast<double>(in.values[s * args.cols + j]);
    if (in.peaks != nullptr) peak = fmaxf(peak, in.peaks[s * args.cols + j]);
  }
  squares[warp][lane] = square;
  values[warp][lane] = value;
  peaks[warp][lane] = peak;
  __syncthreads();
  if (warp != 0 || j >= args.cols) return;
  for (int w = 1; w < kFinishWarps; ++w) {
    square += squares[w][lane];
    value += values[w][lane];
    peak = fmaxf(peak, peaks[w][lane]);
  }
  if (args.energy != nullptr) args.energy[j] += square;
  if (args.ewma != nullptr) args.ewma[j] += args.ewma_weight * (square - args.ewma[j]);
  if (args.sum != nullptr) args.sum[j] += value;
  if (args.peak != nullptr) args.peak[j] = fmaxf(args.peak[j], peak);
}

void launch_finish(const StripSums& sums, std::int64_t strips, const StatisticsArgs& args,
                   cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((args.cols + kWarp - 1) / kWarp);
  finish_kernel<<<blocks, dim3(kWarp, kFinishWarps), 0, stream>>>(sums, strips, args);
}

template <class T>
__global__ __launch_bounds__(kThreads) void row_abs_kernel(const T* x, std::int64_t cols, double* sums) {
  __shared__ double scratch[kWarp + 1];
  const T* row = x + std::int64_t{blockIdx.x} * cols;
  float sum = 0.0f;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) sum += fabsf(to_float(row[j]));
  const double total = block_sum(static_cast<double>(sum), scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

__global__ __launch_bounds__(kThreads) void roots_kernel(StridedRows hidden, std::int64_t cols,
                                                         const float* out, float* root) {
  __shared__ double scratch[kWarp + 1];
  constexpr double kTiny = 1e-12;  // keeps tokens that are zero finite
  const std::int64_t t = blockIdx.x;
  const auto inverse_rms = [&](const float* x) {
    double sum = 0.0;
    for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
      const double value = static_cast<double>(x[j]);
      sum += value * value;
    }
    return 1.0 / sqrt(block_sum(sum, scratch) / static_cast<double>(cols) + kTiny);
  };
  double weight = inverse_rms(hidden.data + t * hidden.stride);
  if (out != nullptr) weight *= inverse_rms(out + t * cols);
  if (threadIdx.x == 0) root[t] = static_cast<float>(sqrt(weight));
}

template <class A, class B, class Y>
__global__ __launch_bounds__(kThreads) void difference_kernel(const A* a, const B* b, const float* root,
                                                              std::int64_t rows, std::int64_t cols,
                                                              std::int64_t stride, Y* y) {
  const std::int64_t r = blockIdx.y + std::int64_t{blockIdx.z} * gridDim.y;
  if (r >= rows) return;
  const float factor = root != nullptr ? root[r] : 1.0f;
  for (std::int64_t j = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; j < cols;
       j += std::int64_t{gridDim.x} * kThreads) {
    const float difference =
        to_float(a[r * stride + j]) - (b != nullptr ? to_float(b[r * stride + j]) : 0.0f);
    y[r * cols + j] = from_float<Y>(factor * difference);
  }
}

__global__ __launch_bounds__(kThreads) void changes_kernel(StridedRows of, StridedRows changed,
                                                           std::int64_t cols, double* changes) {
  __shared__ double scratch[kWarp + 1];
  const float* x = of.data + blockIdx.x * of.stride;
  const float* y = changed.data + blockIdx.x * changed.stride;
  double change = 0.0;
  double size = 0.0;
  for (std::int64_t i = threadIdx.x; i < cols; i += kThreads) {
    const auto value = static_cast<double>(x[i]);
    const double difference = static_cast<double>(y[i]) - value;
    change += difference * difference;
    size += value * value;
  }
  change = block_sum(change, scratch);
  size = block_sum(size, scratch);
  if (threadIdx.x == 0) changes[blockIdx.x] = size > 0.0 ? change / size : 0.0;
}

template <bool kAbsolute>
void launch_strips(const void* x, DType dtype, std::int64_t rows, std::int64_t cols, const StripSums& sums,
                   cudaStream_t stream) {
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto* data = static_cast<const T*>(x);
    const auto strips = static_cast<unsigned>(num_strips(rows));
    if (cols % 8 == 0 && is_aligned(x)) {
      strip_kernel<T, 8, kAbsolute><<<dim3(blocks_for(cols / 8, kThreads), strips), kThreads, 0, stream>>>(
          data, rows, cols, rows_per_strip(rows), sums);
    } else {
      strip_kernel<T, 1, kAbsolute><<<dim3(blocks_for(cols, kThreads), strips), kThreads, 0, stream>>>(
          data, rows, cols, rows_per_strip(rows), sums);
    }
  });
}

}  // namespace

std::int64_t statistics_scratch(std::int64_t rows, std::int64_t cols) {
  // Fewer rows may make one or two strips more: never more than 34 while strips are short.
  return 3 * std::max<std::int64_t>(34, num_strips(rows)) * cols * static_cast<std::int64_t>(sizeof(float));
}

void add_statistics(const StatisticsArgs& args, cudaStream_t stream) {
  if (args.cols == 0) return;
  const std::int64_t strips = args.rows > 0 ? num_strips(args.rows) : 0;
  const std::int64_t size = strips * args.cols;
  auto* scratch = static_cast<float*>(args.scratch);
  StripSums sums{scratch, args.sum != nullptr ? scratch + size : nullptr,
                 args.peak != nullptr ? scratch + 2 * size : nullptr};
  // No rows move the average over windows alone.
  if (strips > 0) launch_strips<false>(args.x, args.dtype, args.rows, args.cols, sums, stream);
  launch_finish(sums, strips, args, stream);
  check_launch("add_statistics");
}

void abs_sums(const void* weight, DType dtype, std::int64_t rows, std::int64_t cols, double* row_sums,
              double* column_sums, void* scratch, cudaStream_t stream) {
  if (rows * cols == 0) return;
  StripSums sums{nullptr, static_cast<float*>(scratch), nullptr};
  launch_strips<true>(weight, dtype, rows, cols, sums, stream);
  check_launch("abs_sums");
  cudaMemsetAsync(column_sums, 0, static_cast<std::size_t>(cols) * sizeof(double), stream);
  StatisticsArgs args;
  args.cols = cols;
  args.sum = column_sums;
  launch_finish(sums, num_strips(rows), args, stream);
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    row_abs_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(static_cast<const T*>(weight), cols,
                                                                         row_sums);
  });
  check_launch("abs_sums");
}

void token_roots(StridedRows hidden, std::int64_t rows, std::int64_t cols, const float* out, float* root,
                 cudaStream_t stream) {
  if (rows == 0) return;
  roots_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(hidden, cols, out, root);
  check_launch("token_roots");
}

void relative_changes(StridedRows x, StridedRows y, std::int64_t rows, std::int64_t cols, double* changes,
                      cudaStream_t stream) {
  if (rows == 0) return;
  changes_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(x, y, cols, changes);
  check_launch("relative_changes");
}

void scaled_difference(const void* a, DType a_dtype, const void* b, DType b_dtype, const float* root,
                       std::int64_t rows, std::int64_t cols, void* y, DType y_dtype, cudaStream_t stream,
                       std::int64_t stride) {
  if (rows * cols == 0) return;
  if (stride == 0) stride = cols;
  constexpr std::int64_t kMaxBlocksY = 32768;
  const auto y_blocks = static_cast<unsigned>(std::min(rows, kMaxBlocksY));
  const dim3 grid(std::min(blocks_for(cols, kThreads), 8u), y_blocks,
                  static_cast<unsigned>((rows + y_blocks - 1) / y_blocks));
  with_type(a_dtype, [&](auto a_zero) {
    using A = decltype(a_zero);
    with_type(y_dtype, [&](auto y_zero) {
      using Y = decltype(y_zero);
      const auto launch = [&](const auto* second) {
        difference_kernel<<<grid, kThreads, 0, stream>>>(static_cast<const A*>(a), second, root, rows, cols,
                                                         stride, static_cast<Y*>(y));
      };
      if (b_dtype == a_dtype) {
        launch(static_cast<const A*>(b));
      } else {
        launch(static_cast<const float*>(b));
      }
    });
  });
  check_launch("scaled_difference");
}

}  // namespace swiftprune::cuda
