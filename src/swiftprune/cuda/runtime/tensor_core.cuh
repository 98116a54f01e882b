// Small products on the tensor cores, a warp each, what their operands are made of, and asynchronous copies
// to shared memory.
#pragma once

#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {

__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ std::uint32_t pack(float low, float high, __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}
__device__ __forceinline__ std::uint32_t pack(float low, float high, __half) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

constexpr float kLog2E = 1.44269504f;
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// c [16, 8] += a [16, 16] b [16, 8]
#define SWIFTPRUNE_MULTIPLY(type)                                           \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type       \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
__device__ __forceinline__ void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                         std::uint32_t b1, __nv_bfloat16) {
  SWIFTPRUNE_MULTIPLY("bf16");
}
__device__ __forceinline__ void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                         std::uint32_t b1, __half) {
  SWIFTPRUNE_MULTIPLY("f16");
}
#undef SWIFTPRUNE_MULTIPLY
// c [16, 8] += a [16, 32] b [32, 8], a with two of every four given (PTX ISA, "mma.sp"). kHalf: which two
// threads of a quad hold the indices.
#define SWIFTPRUNE_MULTIPLY_24(type)                                                                 \
  asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32." type "." type           \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, %13;"        \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                      \
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), \
                 "r"(indices), "n"(kHalf))
template <int kHalf>
__device__ __forceinline__ void multiply_24(float (&c)[4], uint4 a, const std::uint32_t (&b)[4],
                                            std::uint32_t indices, __nv_bfloat16) {
  SWIFTPRUNE_MULTIPLY_24("bf16");
}
template <int kHalf>
__device__ __forceinline__ void multiply_24(float (&c)[4], uint4 a, const std::uint32_t (&b)[4],
                                            std::uint32_t indices, __half) {
  SWIFTPRUNE_MULTIPLY_24("f16");
}
#undef SWIFTPRUNE_MULTIPLY_24

// 16 bytes; both addresses are multiples of 16.
__device__ __forceinline__ void copy_async(unsigned shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global));
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
// Until all but the last kOpen groups of this thread's copies are there.
template <int kOpen>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
}

}  // namespace swiftprune::cuda
