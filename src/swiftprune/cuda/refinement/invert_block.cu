// The base case of inverse.h: a matrix of up to kSize rows, in tiles of 32, is factored and inverted in the
// shared memory of one block. Diagonal tiles are one warp's work in registers, all else are products of
// tiles, a warp each.
#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
// Of rows in shared memory: vectors of four, without bank conflicts.
template <int kSize>
constexpr int kStride = kSize + 4;

// Row `lane` of a tile, or its column.
template <int kWidth>
__device__ __forceinline__ void load_row(const float* tile, int row, float (&x)[kTile]) {
#pragma unroll
  for (int m = 0; m < kTile; m += 4) {
    const float4 v = *reinterpret_cast<const float4*>(tile + row * kWidth + m);
    x[m] = v.x;
    x[m + 1] = v.y;
    x[m + 2] = v.z;
    x[m + 3] = v.w;
  }
}
template <int kWidth>
__device__ __forceinline__ void load_column(const float* tile, int column, float (&x)[kTile]) {
#pragma unroll
  for (int m = 0; m < kTile; ++m) x[m] = tile[m * kWidth + column];
}

// Σ_m a[row][m]·b[m]; all lanes read the same a.
template <int kWidth>
__device__ __forceinline__ float dot(const float* a, int row, const float (&b)[kTile]) {
  float sum[4] = {};
#pragma unroll
  for (int m = 0; m < kTile; m += 4) {
    const float4 v = *reinterpret_cast<const float4*>(a + row * kWidth + m);
    sum[0] = fmaf(v.x, b[m], sum[0]);
    sum[1] = fmaf(v.y, b[m + 1], sum[1]);
    sum[2] = fmaf(v.z, b[m + 2], sum[2]);
    sum[3] = fmaf(v.w, b[m + 3], sum[3]);
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// a, a diagonal tile, becomes L of its Cholesky factorisation; w gets L⁻¹. One warp.
template <int kWidth>
__device__ void factor_tile(float* a, float* w, int lane, int* bad) {
  float x[kTile];
  load_row<kWidth>(a, lane, x);
#pragma unroll
  for (int k = 0; k < kTile; ++k) {
    const float pivot = __shfl_sync(kFullWarp, x[k], k);
    if (!(pivot > 0.0f) && lane == 0) *bad = 1;
    const float l = x[k] / sqrtf(pivot);
    x[k] = l;
#pragma unroll
    for (int j = k + 1; j < kTile; ++j) x[j] = fmaf(-l, __shfl_sync(kFullWarp, l, j), x[j]);
  }
#pragma unroll
  for (int j = 0; j < kTile; ++j) a[lane * kWidth + j] = j <= lane ? x[j] : 0.0f;
  __syncwarp();
  float y[kTile];  // column `lane` of L⁻¹
#pragma unroll
  for (int r = 0; r < kTile; ++r) {
    float sum = r == lane ? 1.0f : 0.0f;
#pragma unroll
    for (int m = 0; m < r; ++m) sum = fmaf(-a[r * kWidth + m], y[m], sum);
    y[r] = sum / a[r * kWidth + r];
    w[r * kWidth + lane] = y[r];
  }
}

template <int kSize>
__global__ __launch_bounds__(kThreads) void invert_kernel(float* matrix, std::int64_t stride, int n,
                                                          int* bad) {
  constexpr int kWidth = kStride<kSize>;
  extern __shared__ float4 shared[];
  float* const a = reinterpret_cast<float*>(shared);  // becomes L
  float* const w = a + kSize * kWidth;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int tiles = (n + kTile - 1) / kTile;
  const auto tile = [](float* m, int i, int j) { return m + i * kTile * kWidth + j * kTile; };
  for (int i = static_cast<int>(threadIdx.x); i < tiles * kTile * kSize; i += kThreads) {
    const int r = i / kSize;
    const int c = i % kSize;
    // Beyond the matrix: the identity.
    a[r * kWidth + c] = r < n && c < n ? matrix[r * stride + c] : r == c ? 1.0f : 0.0f;
    w[r * kWidth + c] = 0.0f;
  }
  __syncthreads();
  for (int k = 0; k < tiles; ++k) {
    if (warp == 0) factor_tile<kWidth>(tile(a, k, k), tile(w, k, k), lane, bad);
    __syncthreads();
    for (int i = k + 1 + warp; i < tiles; i += kWarps) {  // L_ik = A_ik W_kkᵀ
      float* const target = tile(a, i, k);
      float b[kTile];
      load_row<kWidth>(tile(w, k, k), lane, b);
#pragma unroll 4
      for (int r = 0; r < kTile; ++r) {
        const float value = dot<kWidth>(target, r, b);
        __syncwarp();  // all have read the row
        target[r * kWidth + lane] = value;
      }
    }
    __syncthreads();
    int task = 0;
    for (int i = k + 1; i < tiles; ++i) {
      for (int j = k + 1; j <= i; ++j, ++task) {  // A_ij -= L_ik L_jkᵀ
        if (task % kWarps != warp) continue;
        float* const target = tile(a, i, j);
        float b[kTile];
        load_row<kWidth>(tile(a, j, k), lane, b);
#pragma unroll 4
        for (int r = 0; r < kTile; ++r) target[r * kWidth + lane] -= dot<kWidth>(tile(a, i, k), r, b);
      }
    }
    __syncthreads();
  }
  for (int distance = 1; distance < tiles; ++distance) {
    for (int j = warp; j + distance < tiles; j += kWarps) {  // W_ij = -W_ii Σ_m L_im W_mj
      const int i = j + distance;
      float sum[kTile] = {};
      for (int m = j; m < i; ++m) {
        float b[kTile];
        load_column<kWidth>(tile(w, m, j), lane, b);
#pragma unroll
        for (int r = 0; r < kTile; ++r) sum[r] += dot<kWidth>(tile(a, i, m), r, b);
      }
#pragma unroll 4
      for (int r = 0; r < kTile; ++r) tile(w, i, j)[r * kWidth + lane] = -dot<kWidth>(tile(w, i, i), r, sum);
    }
    __syncthreads();
  }
  for (int i = static_cast<int>(threadIdx.x); i < n * kSize; i += kThreads) {
    const int r = i / kSize;
    const int c = i % kSize;
    if (c < n) matrix[r * stride + c] = c <= r ? w[r * kWidth + c] : 0.0f;
  }
}

template <int kSize>
constexpr int kSharedBytes = 2 * kSize* kStride<kSize>* static_cast<int>(sizeof(float));

}  // namespace

std::int64_t inverse_block() {
  int device = 0;
  int bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return bytes >= kSharedBytes<128> ? 128 : 64;
}

void invert_block(float* a, std::int64_t stride, std::int64_t n, int* bad, cudaStream_t stream) {
  const auto launch = [&](auto kernel, int bytes) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    kernel<<<1, kThreads, static_cast<std::size_t>(bytes), stream>>>(a, stride, static_cast<int>(n), bad);
  };
  if (inverse_block() == 128) {
    launch(invert_kernel<128>, kSharedBytes<128>);
  } else {
    launch(invert_kernel<64>, kSharedBytes<64>);
  }
  check_launch("invert_block");
}

}  // namespace swiftprune::cuda
