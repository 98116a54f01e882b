// Whole columns of linears and of Gram matrices: what structured pruning gathers, spreads and zeroes.
#include <algorithm>

#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 256;

// One block a row of the result in all kernels.
__global__ __launch_bounds__(kThreads) void kept_gram_kernel(const float* gram, std::int64_t inputs,
                                                             const float* norm, const std::int32_t* kept,
                                                             std::int64_t n, float shift, float* a) {
  const std::int64_t p = blockIdx.x;
  const float* row = gram + kept[p] * inputs;
  const float scale = 1.0f / norm[kept[p]];
  for (std::int64_t q = threadIdx.x; q < n; q += kThreads) {
    a[p * n + q] = row[kept[q]] * scale / norm[kept[q]] + (p == q ? shift : 0.0f);
  }
}

__global__ __launch_bounds__(kThreads) void kept_moments_kernel(const float* gram, const float* cross,
                                                                std::int64_t inputs, const float* norm,
                                                                const std::int32_t* kept, std::int64_t n,
                                                                float alpha, float* moments) {
  const std::int64_t i = blockIdx.x;
  for (std::int64_t k = threadIdx.x; k < n; k += kThreads) {
    const std::int64_t j = kept[k];
    float value = gram[i * inputs + j];
    if (cross != nullptr) value = (1.0f - alpha) * value + alpha * cross[i * inputs + j];
    moments[i * n + k] = value / norm[j];
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void kept_right_kernel(const T* weight, const float* residual,
                                                              std::int64_t cols, const float* norm,
                                                              const std::int32_t* kept, std::int64_t n,
                                                              float damping, float beta, float* right) {
  const std::int64_t r = blockIdx.x;
  for (std::int64_t k = threadIdx.x; k < n; k += kThreads) {
    const std::int64_t j = kept[k];
    float value = damping * to_float(weight[r * cols + j]) * norm[j];
    if (residual != nullptr) value += beta * residual[r * cols + j] / norm[j];
    right[r * n + k] = value;
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void spread_kernel(const float* b, const float* norm,
                                                          const std::int32_t* place, std::int64_t cols,
                                                          std::int64_t n, T* weight) {
  const std::int64_t r = blockIdx.x;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    const std::int32_t k = place[j];
    weight[r * cols + j] = from_float<T>(k < 0 ? 0.0f : b[r * n + k] / norm[j]);
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void keep_kernel(const std::int32_t* place, std::int64_t cols,
                                                        T* weight) {
  const std::int64_t r = blockIdx.x;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    if (place[j] < 0) weight[r * cols + j] = from_float<T>(0.0f);
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void gather_kernel(const T* x, std::int64_t x_cols,
                                                          const std::int32_t* rows,
                                                          const std::int32_t* columns,
                                                          std::int64_t num_columns, T* y) {
  const std::int64_t r = blockIdx.x;
  const T* source = x + (rows != nullptr ? rows[r] : r) * x_cols;
  for (std::int64_t c = threadIdx.x; c < num_columns; c += kThreads) {
    y[r * num_columns + c] = source[columns != nullptr ? columns[c] : c];
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void differences_kernel(const T* a, const T* b, const double* weights,
                                                               std::int64_t cols, double* sums) {
  __shared__ double scratch[kWarp + 1];
  const std::int64_t r = blockIdx.x;
  double sum = 0.0;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    sum += (static_cast<double>(to_float(a[r * cols + j])) - static_cast<double>(to_float(b[r * cols + j]))) *
           weights[j];
  }
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) sums[r] = sum;
}

}  // namespace

void kept_gram(const float* gram, std::int64_t inputs, const float* norm, const std::int32_t* kept,
               std::int64_t n, float shift, float* a, cudaStream_t stream) {
  if (n == 0) return;
  kept_gram_kernel<<<static_cast<unsigned>(n), kThreads, 0, stream>>>(gram, inputs, norm, kept, n, shift, a);
  check_launch("kept_gram");
}

void kept_moments(const float* gram, const float* cross, std::int64_t inputs, const float* norm,
                  const std::int32_t* kept, std::int64_t n, float alpha, float* moments,
                  cudaStream_t stream) {
  if (inputs == 0) return;
  kept_moments_kernel<<<static_cast<unsigned>(inputs), kThreads, 0, stream>>>(gram, cross, inputs, norm, kept,
                                                                              n, alpha, moments);
  check_launch("kept_moments");
}

void kept_right(const void* weight, DType dtype, const float* residual, std::int64_t rows, std::int64_t cols,
                const float* norm, const std::int32_t* kept, std::int64_t n, float damping, float beta,
                float* right, cudaStream_t stream) {
  if (rows == 0) return;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    kept_right_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(
        static_cast<const T*>(weight), residual, cols, norm, kept, n, damping, beta, right);
  });
  check_launch("kept_right");
}

void spread_columns(const float* b, const float* norm, const std::int32_t* place, std::int64_t rows,
                    std::int64_t cols, std::int64_t n, void* weight, DType dtype, cudaStream_t stream) {
  if (rows == 0) return;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    spread_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(b, norm, place, cols, n,
                                                                        static_cast<T*>(weight));
  });
  check_launch("spread_columns");
}

void keep_columns(const std::int32_t* place, std::int64_t rows, std::int64_t cols, void* weight, DType dtype,
                  cudaStream_t stream) {
  if (rows == 0) return;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    keep_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(place, cols, static_cast<T*>(weight));
  });
  check_launch("keep_columns");
}

void gather(const void* x, DType dtype, std::int64_t x_cols, const std::int32_t* rows, std::int64_t num_rows,
            const std::int32_t* columns, std::int64_t num_columns, void* y, cudaStream_t stream) {
  if (num_rows == 0) return;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    gather_kernel<<<static_cast<unsigned>(num_rows), kThreads, 0, stream>>>(
        static_cast<const T*>(x), x_cols, rows, columns, num_columns, static_cast<T*>(y));
  });
  check_launch("gather");
}

void weighted_differences(const void* a, const void* b, DType dtype, std::int64_t rows, std::int64_t cols,
                          const double* weights, double* sums, cudaStream_t stream) {
  if (rows == 0) return;
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    differences_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(
        static_cast<const T*>(a), static_cast<const T*>(b), weights, cols, sums);
  });
  check_launch("weighted_differences");
}

}  // namespace swiftprune::cuda
