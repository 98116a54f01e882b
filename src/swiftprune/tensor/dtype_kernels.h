// Conversions of whole arrays, one table per instruction set; results are those of the functions in dtype.h,
// bit for bit, and -0 (also by underflow) becomes +0 on the way to 16 bits. 16-bit arrays: any alignment.
#pragma once

#include <cstddef>
#include <cstdint>

namespace swiftprune {

struct DTypeKernels {
  void (*f16_to_f32)(const std::byte* source, float* target, std::int64_t n);
  void (*bf16_to_f32)(const std::byte* source, float* target, std::int64_t n);
  void (*f32_to_f16)(const float* source, std::byte* target, std::int64_t n);
  void (*f32_to_bf16)(const float* source, std::byte* target, std::int64_t n);
};

// Null when this build has no such code.
const DTypeKernels* dtype_kernels_avx2();
const DTypeKernels* dtype_kernels_avx512();
const DTypeKernels* dtype_kernels_neon();

}  // namespace swiftprune
