// What evaluation reads of rows of logits and of outputs: likeliest tokens, divergences, squares. A block a
// row.
#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 256;

// Larger for larger values, and for the lower index among equal ones.
__device__ __forceinline__ unsigned long long key_of(float x, std::int64_t index) {
  const unsigned bits = __float_as_uint(x + 0.0f);  // both zeros are equal
  const unsigned ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 | (0xffffffffu - static_cast<unsigned>(index));
}

__device__ __forceinline__ unsigned long long warp_max_key(unsigned long long x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const unsigned long long other = __shfl_xor_sync(kFullWarp, x, offset);
    if (other > x) x = other;
  }
  return x;
}

__global__ __launch_bounds__(kThreads) void likeliest_kernel(const float* logits, std::int64_t cols,
                                                             std::int32_t* best) {
  __shared__ unsigned long long scratch[kThreads / kWarp];
  const float* row = logits + std::int64_t{blockIdx.x} * cols;
  unsigned long long key = 0;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    const unsigned long long other = key_of(row[j], j);
    if (other > key) key = other;
  }
  key = warp_max_key(key);
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = key;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kThreads / kWarp; ++warp) {
    if (scratch[warp] > key) key = scratch[warp];
  }
  best[blockIdx.x] = static_cast<std::int32_t>(0xffffffffu - static_cast<unsigned>(key));
}

// log Σ exp of a row, in every thread.
__device__ double log_total(const float* row, std::int64_t cols, float* scratch, double* scratch_double) {
  float top = -INFINITY;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) top = fmaxf(top, row[j]);
  top = block_max(top, scratch);
  float sum = 0.0f;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) sum += expf(row[j] - top);
  return static_cast<double>(top) + log(block_sum(static_cast<double>(sum), scratch_double));
}

__global__ __launch_bounds__(kThreads) void divergences_kernel(const float* a, const float* b,
                                                               std::int64_t cols, double* kl) {
  __shared__ float scratch[kWarp + 1];
  __shared__ double scratch_double[kWarp + 1];
  const std::int64_t first = std::int64_t{blockIdx.x} * cols;
  const double a_total = log_total(a + first, cols, scratch, scratch_double);
  const double b_total = log_total(b + first, cols, scratch, scratch_double);
  const auto total = static_cast<float>(a_total);
  double sum = 0.0;
  for (std::int64_t i = first + threadIdx.x; i < first + cols; i += kThreads) {
    sum += static_cast<double>(expf(a[i] - total)) * (static_cast<double>(a[i]) - static_cast<double>(b[i]));
  }
  sum = block_sum(sum, scratch_double);
  // The exponentials sum to 1 but for rounding. A NaN stays one.
  const double divergence = sum - a_total + b_total;
  if (threadIdx.x == 0) kl[blockIdx.x] = divergence < 0.0 ? 0.0 : divergence;
}

__global__ __launch_bounds__(kThreads) void squares_kernel(StridedRows a, StridedRows b, std::int64_t cols,
                                                           double* differences, double* references) {
  __shared__ double scratch[kWarp + 1];
  const float* x = a.data + std::int64_t{blockIdx.x} * a.stride;
  const float* y = b.data + std::int64_t{blockIdx.x} * b.stride;
  double difference = 0.0;
  double reference = 0.0;
  for (std::int64_t j = threadIdx.x; j < cols; j += kThreads) {
    const auto value = static_cast<double>(y[j]);
    const double d = static_cast<double>(x[j]) - value;
    difference += d * d;
    reference += value * value;
  }
  difference = block_sum(difference, scratch);
  reference = block_sum(reference, scratch);
  if (threadIdx.x != 0) return;
  differences[blockIdx.x] = difference;
  references[blockIdx.x] = reference;
}

}  // namespace

void likeliest(const float* logits, std::int64_t rows, std::int64_t cols, std::int32_t* best,
               cudaStream_t stream) {
  if (rows == 0) return;
  likeliest_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(logits, cols, best);
  check_launch("likeliest");
}

void row_divergences(const float* a, const float* b, std::int64_t rows, std::int64_t cols, double* kl,
                     cudaStream_t stream) {
  if (rows == 0) return;
  divergences_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(a, b, cols, kl);
  check_launch("row_divergences");
}

void row_squares(StridedRows a, StridedRows b, std::int64_t rows, std::int64_t cols, double* differences,
                 double* references, cudaStream_t stream) {
  if (rows == 0) return;
  squares_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(a, b, cols, differences, references);
  check_launch("row_squares");
}

}  // namespace swiftprune::cuda
