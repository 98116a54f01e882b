#include "swiftprune/tensor/dtype.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/tensor/dtype_kernels.h"

namespace swiftprune {
namespace {

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  std::int64_t size;
  unsigned bits = 8 * static_cast<unsigned>(size);
};

constexpr std::array kDTypes = {
    DTypeInfo{DType::kF32, "F32", 4},
    DTypeInfo{DType::kF16, "F16", 2},
    DTypeInfo{DType::kBF16, "BF16", 2},
    DTypeInfo{DType::kF64, "F64", 8},
    DTypeInfo{DType::kBool, "BOOL", 1},
    DTypeInfo{DType::kU8, "U8", 1},
    DTypeInfo{DType::kI8, "I8", 1},
    DTypeInfo{DType::kU16, "U16", 2},
    DTypeInfo{DType::kI16, "I16", 2},
    DTypeInfo{DType::kU32, "U32", 4},
    DTypeInfo{DType::kI32, "I32", 4},
    DTypeInfo{DType::kU64, "U64", 8},
    DTypeInfo{DType::kI64, "I64", 8},
    DTypeInfo{DType::kF8E4M3, "F8_E4M3", 1},
    DTypeInfo{DType::kF8E5M2, "F8_E5M2", 1},
    DTypeInfo{DType::kF8E4M3Fnuz, "F8_E4M3FNUZ", 1},
    DTypeInfo{DType::kF8E5M2Fnuz, "F8_E5M2FNUZ", 1},
    DTypeInfo{DType::kF8E8M0, "F8_E8M0", 1},
    DTypeInfo{DType::kF4, "F4", 1, 4},
    DTypeInfo{DType::kF6E2M3, "F6_E2M3", 1, 6},
    DTypeInfo{DType::kF6E3M2, "F6_E3M2", 1, 6},
    DTypeInfo{DType::kC64, "C64", 8},
};

}  // namespace

std::int64_t size_of(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)].size; }

std::optional<std::uint64_t> bytes_of(DType dtype, std::uint64_t numel) {
  std::uint64_t bits = 0;
  if (__builtin_mul_overflow(numel, std::uint64_t{kDTypes[static_cast<std::size_t>(dtype)].bits}, &bits) ||
      bits % 8 != 0) {
    return std::nullopt;
  }
  return bits / 8;
}

std::string_view name_of(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)].name; }

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.name == name) return info.dtype;
  }
  return std::nullopt;
}

bool is_weight_dtype(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

float f16_to_f32(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) {
    const std::uint32_t quiet = mantissa != 0 ? 0x00400000u : 0u;
    return std::bit_cast<float>(sign | 0x7f800000u | quiet | (mantissa << 13));
  }
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // zero and subnormals, exact
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

std::uint16_t f32_to_f16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  }
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Subnormal result: adding 0.5 puts the rounded mantissa in the low bits (round to nearest even by the
    // FPU).
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u;
  return static_cast<std::uint16_t>(sign | (rounded >> 13));
}

float bf16_to_f32(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

std::uint16_t f32_to_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

namespace {

std::uint16_t load_u16(const std::byte* source) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, source, 2);
  return bits;
}

void f16_to_f32_baseline(const std::byte* source, float* target, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) target[i] = f16_to_f32(load_u16(source + 2 * i));
}

void bf16_to_f32_baseline(const std::byte* source, float* target, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) target[i] = bf16_to_f32(load_u16(source + 2 * i));
}

void store_u16(std::uint16_t bits, std::byte* target) {
  if (bits == 0x8000u) bits = 0;  // -0, or an underflow to it
  std::memcpy(target, &bits, 2);
}

void f32_to_f16_baseline(const float* source, std::byte* target, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) store_u16(f32_to_f16(source[i]), target + 2 * i);
}

void f32_to_bf16_baseline(const float* source, std::byte* target, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) store_u16(f32_to_bf16(source[i]), target + 2 * i);
}

constexpr DTypeKernels kBaselineKernels = {f16_to_f32_baseline, bf16_to_f32_baseline, f32_to_f16_baseline,
                                           f32_to_bf16_baseline};

const DTypeKernels& dtype_kernels() {
  static const DTypeKernels& kernels = [&]() -> const DTypeKernels& {
    if (cpu_features().avx512 && dtype_kernels_avx512() != nullptr) return *dtype_kernels_avx512();
    if (cpu_features().avx2 && dtype_kernels_avx2() != nullptr) return *dtype_kernels_avx2();
    if (cpu_features().neon && dtype_kernels_neon() != nullptr) return *dtype_kernels_neon();
    return kBaselineKernels;
  }();
  return kernels;
}

}  // namespace

float e4m3_to_f32(E4M3 value) {
  const auto bits = static_cast<unsigned>(value);
  const int exponent = static_cast<int>(bits >> 3 & 15u);
  const int mantissa = static_cast<int>(bits & 7u);
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                   : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (bits & 0x80u) != 0 ? -size : size;
}

E4M3 f32_to_e4m3(float value) {
  const unsigned sign = std::signbit(value) ? 0x80u : 0u;
  if (std::isnan(value)) return static_cast<E4M3>(sign | 0x7fu);
  const float size = std::min(std::abs(value), kLargestE4M3);
  int exponent = size == 0.0f ? -6 : std::max(std::ilogb(size), -6);
  long eighths = std::lrint(std::ldexp(size, 3 - exponent));  // to nearest even
  if (eighths == 16) {
    eighths = 8;
    ++exponent;
  }
  const long code = eighths < 8 ? eighths : (exponent + 7) * 8 + eighths - 8;
  return static_cast<E4M3>(sign | static_cast<unsigned>(code));
}

void convert_to_f32(std::span<const std::byte> source, DType dtype, std::span<float> target) {
  const auto n = static_cast<std::int64_t>(target.size());
  expect(static_cast<std::int64_t>(source.size()) == n * size_of(dtype), "convert_to_f32: sizes match");
  expect(is_weight_dtype(dtype), "convert_to_f32: a weight dtype");
  if (dtype == DType::kF32) {
    if (n > 0) std::memcpy(target.data(), source.data(), source.size());
  } else if (dtype == DType::kF16) {
    dtype_kernels().f16_to_f32(source.data(), target.data(), n);
  } else {
    dtype_kernels().bf16_to_f32(source.data(), target.data(), n);
  }
}

void convert_from_f32(std::span<const float> source, DType dtype, std::span<std::byte> target) {
  const auto n = static_cast<std::int64_t>(source.size());
  expect(static_cast<std::int64_t>(target.size()) == n * size_of(dtype), "convert_from_f32: sizes match");
  expect(is_weight_dtype(dtype), "convert_from_f32: a weight dtype");
  if (dtype == DType::kF32) {
    for (std::size_t i = 0; i < source.size(); ++i) {
      auto bits = std::bit_cast<std::uint32_t>(source[i]);
      if (bits == 0x80000000u) bits = 0;
      std::memcpy(target.data() + 4 * i, &bits, 4);
    }
  } else if (dtype == DType::kF16) {
    dtype_kernels().f32_to_f16(source.data(), target.data(), n);
  } else {
    dtype_kernels().f32_to_bf16(source.data(), target.data(), n);
  }
}

void transpose_bytes(std::span<const std::byte> source, std::int64_t rows, std::int64_t cols,
                     std::int64_t size, std::span<std::byte> target) {
  expect(size == 2 || size == 4, "transpose_bytes: elements of 2 or 4 bytes");
  expect(std::ssize(source) == rows * cols * size && source.size() == target.size(),
         "transpose_bytes: a matrix");
  constexpr std::int64_t kTile = 32;  // rows of source and target of a tile fit in the first-level cache
  const auto turn = [&]<class Word>(Word) {
    constexpr auto kSize = static_cast<std::int64_t>(sizeof(Word));
    for (std::int64_t i0 = 0; i0 < rows; i0 += kTile) {
      for (std::int64_t j0 = 0; j0 < cols; j0 += kTile) {
        for (std::int64_t i = i0; i < std::min(rows, i0 + kTile); ++i) {
          for (std::int64_t j = j0; j < std::min(cols, j0 + kTile); ++j) {
            std::memcpy(target.data() + (j * rows + i) * kSize, source.data() + (i * cols + j) * kSize,
                        sizeof(Word));
          }
        }
      }
    }
  };
  size == 2 ? turn(std::uint16_t{}) : turn(std::uint32_t{});
}

}  // namespace swiftprune
