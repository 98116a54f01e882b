// Shared by the kernels: element types, vectors of eight, sums over warps and blocks, launch checks.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "swiftprune/cuda/kernels.h"

namespace swiftprune::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kWarp = 32;

// Blocks of a grid for n elements, of which a block takes `each`.
inline unsigned blocks_for(std::int64_t n, std::int64_t each) {
  return static_cast<unsigned>((n + each - 1) / each);
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// Eight consecutive elements, 16-byte aligned.
template <class T>
struct alignas(16) Eight {
  T v[8];
};
template <class T>
__device__ __forceinline__ Eight<T> load_eight(const T* p) {
  Eight<T> e;
  const auto* source = reinterpret_cast<const uint4*>(p);
  auto* target = reinterpret_cast<uint4*>(&e);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(e) / 16); ++i) target[i] = source[i];
  return e;
}
template <class T>
__device__ __forceinline__ void store_eight(T* p, const Eight<T>& e) {
  auto* target = reinterpret_cast<uint4*>(p);
  const auto* source = reinterpret_cast<const uint4*>(&e);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(e) / 16); ++i) target[i] = source[i];
}
// Zeroes the elements whose bit of `keep` is 0.
template <class T>
__device__ __forceinline__ void keep_only(Eight<T>& e, std::uint32_t keep) {
  if constexpr (sizeof(T) == 2) {
    auto* words = reinterpret_cast<std::uint32_t*>(&e);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words[i] &=
          ((keep >> (2 * i)) & 1u ? 0x0000ffffu : 0u) | ((keep >> (2 * i + 1)) & 1u ? 0xffff0000u : 0u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (((keep >> i) & 1u) == 0) e.v[i] = from_float<T>(0.0f);
    }
  }
}

// Eight bytes of a mask, 1 where the bit of `keep` is; 8-byte aligned.
__device__ __forceinline__ void store_mask(std::uint8_t* mask, std::uint32_t keep) {
  std::uint64_t bytes = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) bytes |= std::uint64_t{(keep >> i) & 1u} << (8 * i);
  *reinterpret_cast<std::uint64_t*>(mask) = bytes;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullWarp, x, offset);
  return x;
}
__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullWarp, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, offset));
  return x;
}

// Over all threads of the block, the result in each; `scratch` holds 33 values and may be used again after
// the next barrier.
template <class T>
__device__ __forceinline__ T block_sum(T x, T* scratch) {
  x = warp_sum(x);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  __syncthreads();
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  const int warps = (static_cast<int>(blockDim.x) + kWarp - 1) / kWarp;
  return warp_sum(lane < warps ? scratch[lane] : T(0));
}
__device__ __forceinline__ float block_max(float x, float* scratch) {
  x = warp_max(x);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  __syncthreads();
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  const int warps = (static_cast<int>(blockDim.x) + kWarp - 1) / kWarp;
  return warp_max(lane < warps ? scratch[lane] : -INFINITY);
}

// A softmax's total with the score of a head's sink (AttentionArgs::sinks): it stands relative to `top`.
__device__ __forceinline__ float with_sink(float total, float top, const float* sinks, std::int64_t head) {
  return sinks == nullptr ? total : total + expf(sinks[head] - top);
}

__device__ __forceinline__ void add_zeros(PruneCounters* counters, unsigned int zeros) {
  if (zeros == 0) return;
  const unsigned block = blockIdx.x + blockIdx.y * gridDim.x;
  atomicAdd(&counters->zeros[(block % PruneCounters::kLanes) * 4], static_cast<unsigned long long>(zeros));
}

// Calls body(T{}) with the element type of `dtype`.
template <class Body>
void with_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kF32:
      return body(float{});
    case DType::kF16:
      return body(__half{});
    default:
      return body(__nv_bfloat16{});
  }
}

inline bool is_aligned(const void* p, std::int64_t bytes = 16) {
  return reinterpret_cast<std::uintptr_t>(p) % static_cast<std::uintptr_t>(bytes) == 0;
}

}  // namespace swiftprune::cuda
