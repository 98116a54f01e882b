// What the refinement needs beside its products: normalised Gram matrices, the base case of the inverse, and
// the first and last steps of admm. The steps between are in rows.cu and groups.cu.
#include <algorithm>

#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 32;

__global__ void symmetrize_kernel(float* a, std::int64_t n) {
  __shared__ float tile[kTile][kTile + 1];
  if (blockIdx.x > blockIdx.y) return;  // tiles on and below the diagonal
  const std::int64_t row = std::int64_t{blockIdx.y} * kTile;
  const std::int64_t col = std::int64_t{blockIdx.x} * kTile;
  for (int i = static_cast<int>(threadIdx.y); i < kTile; i += static_cast<int>(blockDim.y)) {
    const std::int64_t r = row + i;
    const std::int64_t c = col + threadIdx.x;
    if (r < n && c < n) tile[i][threadIdx.x] = a[r * n + c];
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.y); i < kTile; i += static_cast<int>(blockDim.y)) {
    const std::int64_t r = col + i;  // of the mirrored tile
    const std::int64_t c = row + threadIdx.x;
    if (r < n && c < n && r < c) a[r * n + c] = tile[threadIdx.x][i];
  }
}

__global__ __launch_bounds__(1024) void norms_kernel(const float* gram, std::int64_t n, double floor,
                                                     float* norm) {
  __shared__ double scratch[kWarp + 1];
  double sum = 0.0;
  for (std::int64_t j = threadIdx.x; j < n; j += blockDim.x) sum += static_cast<double>(gram[j * n + j]);
  const double mean = block_sum(sum, scratch) / static_cast<double>(n);
  const double least = floor > 0.0 ? floor * (mean > 0.0 ? mean : 1.0) : 0.0;
  for (std::int64_t j = threadIdx.x; j < n; j += blockDim.x) {
    norm[j] = static_cast<float>(sqrt(static_cast<double>(gram[j * n + j]) + least) + 1e-8);
  }
}

template <class Y>
__global__ __launch_bounds__(kThreads) void normalise_kernel(const float* gram, const float* norm,
                                                             std::int64_t n, float shift, float scale, Y* y) {
  const std::int64_t i = blockIdx.x;
  const float row = scale / norm[i];
  for (std::int64_t j = threadIdx.x; j < n; j += kThreads) {
    const float value = gram[i * n + j] * row / norm[j] + (i == j ? shift : 0.0f);
    y[i * n + j] = from_float<Y>(value);
  }
}

__global__ __launch_bounds__(kThreads) void moments_kernel(const float* gram, const float* cross,
                                                           const float* norm, std::int64_t n, float alpha,
                                                           float* moments) {
  const std::int64_t i = blockIdx.x;
  for (std::int64_t j = threadIdx.x; j < n; j += kThreads) {
    const float g = gram[i * n + j];
    const float value = cross != nullptr ? (1.0f - alpha) * g + alpha * cross[i * n + j] : g;
    moments[i * n + j] = value / norm[j];
  }
}

__global__ __launch_bounds__(kThreads) void diagonal_kernel(float* a, std::int64_t n, float shift) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) a[i * n + i] += shift;
}

template <class T>
__global__ __launch_bounds__(kThreads) void start_kernel(const T* weight, const float* norm,
                                                         std::int64_t cols, float* scale, __half* scaled,
                                                         float* wide, bool scale_wide) {
  __shared__ float scratch[kWarp + 1];
  const std::int64_t r = blockIdx.x;
  float top = 0.0f;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    const float w = to_float(weight[r * cols + j]);
    top = fmaxf(top, fabsf(w * norm[j]));
  }
  top = block_max(top, scratch);
  int exponent = 0;
  if (top > 0.0f && top < INFINITY) frexpf(top, &exponent);
  const float size = ldexpf(1.0f, exponent);
  if (threadIdx.x == 0) scale[r] = size;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    const float w = to_float(weight[r * cols + j]);
    const float value = w * norm[j] / size;
    scaled[r * cols + j] = __float2half_rn(value);
    wide[r * cols + j] = scale_wide ? value : w;
  }
}

__global__ __launch_bounds__(kThreads) void right_kernel(float* right, const float* wide, const float* norm,
                                                         const float* residual, float beta, float damping,
                                                         const float* scale, std::int64_t cols) {
  const std::int64_t r = blockIdx.x;
  const float inverse = 1.0f / scale[r];
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    const std::int64_t at = r * cols + j;
    float value = right[at] + damping * wide[at] * norm[j];
    if (residual != nullptr) value += beta * residual[at] / norm[j];
    right[at] = value * inverse;
  }
}

__global__ __launch_bounds__(kThreads) void rescale_kernel(float* constant, float* y, __half* t, float* scale,
                                                           double* wanted, std::int64_t cols) {
  __shared__ float scratch[kWarp + 1];
  const std::int64_t r = blockIdx.x;
  float top = 0.0f;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) top = fmaxf(top, fabsf(y[r * cols + j]));
  top = block_max(top, scratch);
  int exponent = 1;
  if (top > 2.0f && top < INFINITY) frexpf(top, &exponent);
  const float factor = ldexpf(1.0f, 1 - exponent);
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    const float value = y[r * cols + j] * factor;
    y[r * cols + j] = value;
    constant[r * cols + j] = value;
    if (exponent != 1) t[r * cols + j] = __float2half_rn(__half2float(t[r * cols + j]) * factor);
  }
  if (threadIdx.x == 0 && exponent != 1) {
    scale[r] /= factor;
    wanted[r] *= static_cast<double>(factor) * static_cast<double>(factor);
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void row_dots_kernel(const T* x, const float* p, std::int64_t cols,
                                                            double* energies) {
  __shared__ double scratch[kWarp + 1];
  const std::int64_t r = blockIdx.x;
  double sum = 0.0;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    sum += static_cast<double>(to_float(x[r * cols + j]) * p[r * cols + j]);
  }
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) energies[r] = sum;
}

template <class T>
__global__ __launch_bounds__(kThreads) void weighted_energies_kernel(const T* x, const double* weights,
                                                                     std::int64_t cols, double* energies) {
  __shared__ double scratch[kWarp + 1];
  const std::int64_t r = blockIdx.x;
  double sum = 0.0;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    const auto value = static_cast<double>(to_float(x[r * cols + j]));
    sum += value * value * weights[j];
  }
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) energies[r] = sum;
}

// The last steps of all refinements: rounded, counted, checked.
template <class T>
__device__ __forceinline__ T rounded(float x, unsigned& zeros, bool& bad) {
  const T value = from_float<T>(x);
  bad |= !(fabsf(to_float(value)) < INFINITY);
  if (to_float(value) != 0.0f) return value;
  ++zeros;
  return from_float<T>(0.0f);  // -0 too
}

template <class T>
__global__ __launch_bounds__(kThreads) void finish_kernel(const float* z, const float* scale,
                                                          const float* norm, const double* wanted,
                                                          const double* found, std::int64_t cols, T* weight,
                                                          PruneCounters* counters) {
  __shared__ unsigned total;
  const std::int64_t r = blockIdx.x;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  float factor = scale[r];
  if (wanted != nullptr && wanted[r] > 0.0 && found[r] > 0.0) {
    factor *= static_cast<float>(sqrt(fmin(fmax(sqrt(wanted[r] / found[r]), 0.5), 2.0)));
  }
  unsigned zeros = 0;
  bool bad = false;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    weight[r * cols + j] = rounded<T>(z[r * cols + j] * factor / norm[j], zeros, bad);
  }
  zeros = __reduce_add_sync(kFullWarp, zeros);
  if (threadIdx.x % kWarp == 0) atomicAdd(&total, zeros);
  if (bad) atomicOr(&counters->not_finite, 1u);
  __syncthreads();
  if (threadIdx.x == 0) add_zeros(counters, total);
}

template <class T>
__global__ __launch_bounds__(kThreads) void round_kernel(const float* b, std::int64_t cols, T* weight,
                                                         PruneCounters* counters) {
  __shared__ unsigned total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  const std::int64_t row = std::int64_t{blockIdx.x} * cols;
  unsigned zeros = 0;
  bool bad = false;
  for (std::int64_t i = row + threadIdx.x; i < row + cols; i += kThreads)
    weight[i] = rounded<T>(b[i], zeros, bad);
  zeros = __reduce_add_sync(kFullWarp, zeros);
  if (threadIdx.x % kWarp == 0) atomicAdd(&total, zeros);
  if (bad) atomicOr(&counters->not_finite, 1u);
  __syncthreads();
  if (threadIdx.x == 0) add_zeros(counters, total);
}

__global__ __launch_bounds__(kThreads) void mask_kernel(const float* b, std::int64_t n, std::uint8_t* mask) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) mask[i] = b[i] != 0.0f ? 1 : 0;
}

__global__ __launch_bounds__(kThreads) void reverse_kernel(float* a, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count / 2) return;
  const float x = a[i];
  a[i] = a[count - 1 - i];
  a[count - 1 - i] = x;
}

__global__ __launch_bounds__(kThreads) void damp_kernel(float* a, std::int64_t n, float shift, float dead) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  float& diagonal = a[i * n + i];
  diagonal = (diagonal == 0.0f ? dead : diagonal) + shift;
}

__global__ __launch_bounds__(kThreads) void admm_mask_kernel(AdmmStepArgs args, const std::uint8_t* mask) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= args.rows * args.cols) return;
  const float value = args.y[i];
  const bool kept = mask[i] != 0;
  if (args.result != nullptr) {
    args.result[i] = kept ? value : 0.0f;
    return;
  }
  static_cast<__half*>(args.t)[i] = __float2half_rn(kept ? value : -value);
  args.y[i] = args.constant[i] + (kept ? 0.0f : value);
}

unsigned tiles(std::int64_t n) { return static_cast<unsigned>((n + kTile - 1) / kTile); }
const dim3 kTileThreads(kTile, 8);

}  // namespace

void symmetrize(float* gram, std::int64_t n, cudaStream_t stream) {
  if (n == 0) return;
  symmetrize_kernel<<<dim3(tiles(n), tiles(n)), kTileThreads, 0, stream>>>(gram, n);
  check_launch("symmetrize");
}

void admm_norms(const float* gram, std::int64_t n, double floor, float* norm, cudaStream_t stream) {
  norms_kernel<<<1, 1024, 0, stream>>>(gram, n, floor, norm);
  check_launch("admm_norms");
}

void normalised_gram(const float* gram, const float* norm, std::int64_t n, float shift, float scale, void* y,
                     DType y_dtype, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(n);
  if (y_dtype == DType::kF16) {
    normalise_kernel<<<blocks, kThreads, 0, stream>>>(gram, norm, n, shift, scale, static_cast<__half*>(y));
  } else {
    normalise_kernel<<<blocks, kThreads, 0, stream>>>(gram, norm, n, shift, scale, static_cast<float*>(y));
  }
  check_launch("normalised_gram");
}

void aligned_moments(const float* gram, const float* cross, const float* norm, std::int64_t n, float alpha,
                     float* moments, cudaStream_t stream) {
  moments_kernel<<<static_cast<unsigned>(n), kThreads, 0, stream>>>(gram, cross, norm, n, alpha, moments);
  check_launch("aligned_moments");
}

void add_diagonal(float* a, std::int64_t n, float shift, cudaStream_t stream) {
  diagonal_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream>>>(a, n, shift);
  check_launch("add_diagonal");
}

void admm_start(const void* weight, DType dtype, const float* norm, std::int64_t rows, std::int64_t cols,
                float* scale, void* scaled, float* wide, bool scale_wide, cudaStream_t stream) {
  if (rows * cols == 0) return;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    start_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(
        static_cast<const T*>(weight), norm, cols, scale, static_cast<__half*>(scaled), wide, scale_wide);
  });
  check_launch("admm_start");
}

void admm_right(float* right, const float* wide, const float* norm, const float* residual, float beta,
                float damping, const float* scale, std::int64_t rows, std::int64_t cols,
                cudaStream_t stream) {
  if (rows * cols == 0) return;
  right_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(right, wide, norm, residual, beta,
                                                                     damping, scale, cols);
  check_launch("admm_right");
}

void admm_rescale(float* constant, float* y, void* t, float* scale, double* wanted, std::int64_t rows,
                  std::int64_t cols, cudaStream_t stream) {
  if (rows * cols == 0) return;
  rescale_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(constant, y, static_cast<__half*>(t),
                                                                       scale, wanted, cols);
  check_launch("admm_rescale");
}

void row_dots(const void* x, DType dtype, const float* p, std::int64_t rows, std::int64_t cols,
              double* energies, cudaStream_t stream) {
  if (rows * cols == 0) return;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    row_dots_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(static_cast<const T*>(x), p, cols,
                                                                          energies);
  });
  check_launch("row_dots");
}

void weighted_row_energies(const void* x, DType dtype, const double* weights, std::int64_t rows,
                           std::int64_t cols, double* energies, cudaStream_t stream) {
  if (rows * cols == 0) return;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    weighted_energies_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(static_cast<const T*>(x),
                                                                                   weights, cols, energies);
  });
  check_launch("weighted_row_energies");
}

void admm_finish(const float* z, const float* scale, const float* norm, const double* wanted,
                 const double* found, std::int64_t rows, std::int64_t cols, void* weight, DType dtype,
                 PruneCounters* counters, cudaStream_t stream) {
  if (rows * cols == 0) return;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    finish_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(z, scale, norm, wanted, found, cols,
                                                                        static_cast<T*>(weight), counters);
  });
  check_launch("admm_finish");
}

void round_weights(const float* b, std::int64_t rows, std::int64_t cols, void* weight, DType dtype,
                   PruneCounters* counters, cudaStream_t stream) {
  if (rows * cols == 0) return;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    round_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(b, cols, static_cast<T*>(weight),
                                                                       counters);
  });
  check_launch("round_weights");
}

void mask_of(const float* b, std::int64_t n, std::uint8_t* mask, cudaStream_t stream) {
  if (n == 0) return;
  mask_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream>>>(b, n, mask);
  check_launch("mask_of");
}

void reverse(float* a, std::int64_t n, cudaStream_t stream) {
  if (n == 0) return;
  reverse_kernel<<<blocks_for(n * n, kThreads), kThreads, 0, stream>>>(a, n * n);
  check_launch("reverse");
}

void damp_diagonal(float* a, std::int64_t n, float shift, float dead_diagonal, cudaStream_t stream) {
  if (n == 0) return;
  damp_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream>>>(a, n, shift, dead_diagonal);
  check_launch("damp_diagonal");
}

void admm_step_mask(const AdmmStepArgs& args, const std::uint8_t* mask, cudaStream_t stream) {
  if (args.rows * args.cols == 0) return;
  admm_mask_kernel<<<blocks_for(args.rows * args.cols, kThreads), kThreads, 0, stream>>>(args, mask);
  check_launch("admm_step_mask");
}

}  // namespace swiftprune::cuda
