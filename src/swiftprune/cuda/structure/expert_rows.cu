// Rows of the outputs of one expert, as removal of experts looks at them (pipeline/drivers/expert_shop.h). One block a
// row.
#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 256;

__global__ __launch_bounds__(kThreads) void sizes_kernel(const float* a, const float* b, float factor,
                                                         std::int64_t cols, double* norms, double* largest) {
  __shared__ float scratch[kWarp + 1];
  __shared__ double scratch_double[kWarp + 1];
  const std::int64_t r = blockIdx.x;
  double squares = 0.0;
  float most = 0.0f;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    const float x = a[r * cols + j] + (b != nullptr ? factor * b[r * cols + j] : 0.0f);
    squares += static_cast<double>(x) * static_cast<double>(x);
    most = fmaxf(most, fabsf(x));
  }
  squares = block_sum(squares, scratch_double);
  most = block_max(most, scratch);
  if (threadIdx.x == 0) {
    norms[r] = sqrt(squares);
    largest[r] = static_cast<double>(most);
  }
}

__global__ __launch_bounds__(kThreads) void products_kernel(const float* y, const float* dense,
                                                            std::int64_t cols, double* squares,
                                                            double* products) {
  __shared__ double scratch[kWarp + 1];
  const std::int64_t r = blockIdx.x;
  double own = 0.0, off = 0.0;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    const float x = y[r * cols + j];
    own += static_cast<double>(x) * static_cast<double>(x);
    off += static_cast<double>(x) * static_cast<double>(x - dense[r * cols + j]);
  }
  own = block_sum(own, scratch);
  off = block_sum(off, scratch);
  if (threadIdx.x == 0) {
    squares[r] = own;
    products[r] = off;
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void place_kernel(const float* values, const std::int32_t* rows,
                                                         std::int64_t cols, T* y) {
  const std::int64_t i = blockIdx.x;
  T* target = y + std::int64_t{rows[i]} * cols;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) target[j] = from_float<T>(values[i * cols + j]);
}

template <class T>
__global__ __launch_bounds__(kThreads) void changes_kernel(ExpertChangesArgs args, const T* next) {
  __shared__ double scratch[kWarp + 1];
  const std::int64_t i = blockIdx.x, first = std::int64_t{args.rows[i]} * args.cols;
  const double of_y = args.factors[3 * i], of_f = args.factors[3 * i + 1], of_next = args.factors[3 * i + 2];
  double sum = 0.0;
  for (std::int64_t j = threadIdx.x; j < args.cols; j += kThreads) {
    const auto y = static_cast<double>(args.y[first + j]);
    const double d = of_y * y + of_f * static_cast<double>(args.f[i * args.cols + j]) +
                     of_next * static_cast<double>(to_float(next[first + j]));
    sum += d * (d + 2.0 * (y - static_cast<double>(args.dense[first + j])));
  }
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) args.changes[i] = sum;
}

__global__ __launch_bounds__(kThreads) void lacking_kernel(const float* dense, const float* y,
                                                           const std::int32_t* rows, const float* roots,
                                                           std::int64_t cols, float* out) {
  const std::int64_t i = blockIdx.x, first = std::int64_t{rows[i]} * cols;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads)
    out[i * cols + j] = roots[i] * (dense[first + j] - y[first + j]);
}

template <class T>
__global__ __launch_bounds__(kThreads) void fit_kernel(const T* weight, float* fit, std::int64_t n, T* out) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  const float before = to_float(weight[i]);
  const T after = from_float<T>(before + fit[i]);
  out[i] = after;
  fit[i] = to_float(after) - before;
}

}  // namespace

void apply_fit(const void* weight, DType dtype, float* fit, std::int64_t n, void* out, cudaStream_t stream) {
  if (n == 0) return;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    fit_kernel<T><<<static_cast<unsigned>((n + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
        static_cast<const T*>(weight), fit, n, static_cast<T*>(out));
  });
  check_launch("apply_fit");
}

void row_sizes(const float* a, const float* b, std::int64_t rows, std::int64_t cols, double* norms,
               double* largest, cudaStream_t stream, float factor) {
  if (rows == 0) return;
  sizes_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(a, b, factor, cols, norms, largest);
  check_launch("row_sizes");
}

void row_products(const float* y, const float* dense, std::int64_t rows, std::int64_t cols, double* squares,
                  double* products, cudaStream_t stream) {
  if (rows == 0) return;
  products_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(y, dense, cols, squares, products);
  check_launch("row_products");
}

void place_rows(const float* values, const std::int32_t* rows, std::int64_t n, std::int64_t cols, void* y,
                DType dtype, cudaStream_t stream) {
  if (n == 0) return;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    place_kernel<<<static_cast<unsigned>(n), kThreads, 0, stream>>>(values, rows, cols, static_cast<T*>(y));
  });
  check_launch("place_rows");
}

void expert_changes(const ExpertChangesArgs& args, const void* next, DType dtype, cudaStream_t stream) {
  if (args.n == 0) return;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    changes_kernel<<<static_cast<unsigned>(args.n), kThreads, 0, stream>>>(args, static_cast<const T*>(next));
  });
  check_launch("expert_changes");
}

void lacking_rows(const float* dense, const float* y, const std::int32_t* rows, const float* roots,
                  std::int64_t n, std::int64_t cols, float* out, cudaStream_t stream) {
  if (n == 0) return;
  lacking_kernel<<<static_cast<unsigned>(n), kThreads, 0, stream>>>(dense, y, rows, roots, cols, out);
  check_launch("lacking_rows");
}

}  // namespace swiftprune::cuda
