#include "swiftprune/tensor/dtype.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  std::int64_t size;
};

constexpr std::array kDTypes = {
    DTypeInfo{DType::kF32, "F32", 4},        DTypeInfo{DType::kF16, "F16", 2},
    DTypeInfo{DType::kBF16, "BF16", 2},      DTypeInfo{DType::kF64, "F64", 8},
    DTypeInfo{DType::kBool, "BOOL", 1},      DTypeInfo{DType::kU8, "U8", 1},
    DTypeInfo{DType::kI8, "I8", 1},          DTypeInfo{DType::kU16, "U16", 2},
    DTypeInfo{DType::kI16, "I16", 2},        DTypeInfo{DType::kU32, "U32", 4},
    DTypeInfo{DType::kI32, "I32", 4},        DTypeInfo{DType::kU64, "U64", 8},
    DTypeInfo{DType::kI64, "I64", 8},        DTypeInfo{DType::kF8E4M3, "F8_E4M3", 1},
    DTypeInfo{DType::kF8E5M2, "F8_E5M2", 1},
};

}  // namespace

std::int64_t size_of(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)].size; }

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
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
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
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
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

void convert_to_f32(std::span<const std::byte> source, DType dtype, std::span<float> target) {
  expect(
      static_cast<std::int64_t>(source.size()) == static_cast<std::int64_t>(target.size()) * size_of(dtype),
      "convert_to_f32: sizes match");
  if (dtype == DType::kF32) {
    if (!target.empty()) std::memcpy(target.data(), source.data(), source.size());
    return;
  }
  expect(is_weight_dtype(dtype), "convert_to_f32: a weight dtype");
  const auto load = [&](std::size_t i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, source.data() + 2 * i, 2);
    return bits;
  };
  if (dtype == DType::kF16) {
    for (std::size_t i = 0; i < target.size(); ++i) target[i] = f16_to_f32(load(i));
  } else {
    for (std::size_t i = 0; i < target.size(); ++i) target[i] = bf16_to_f32(load(i));
  }
}

void convert_from_f32(std::span<const float> source, DType dtype, std::span<std::byte> target) {
  expect(
      static_cast<std::int64_t>(target.size()) == static_cast<std::int64_t>(source.size()) * size_of(dtype),
      "convert_from_f32: sizes match");
  expect(is_weight_dtype(dtype), "convert_from_f32: a weight dtype");
  for (std::size_t i = 0; i < source.size(); ++i) {
    const float value = source[i] == 0.0f ? 0.0f : source[i];
    if (dtype == DType::kF32) {
      std::memcpy(target.data() + 4 * i, &value, 4);
    } else {
      std::uint16_t bits = dtype == DType::kF16 ? f32_to_f16(value) : f32_to_bf16(value);
      if (bits == 0x8000u) bits = 0;  // an underflow to -0
      std::memcpy(target.data() + 2 * i, &bits, 2);
    }
  }
}

}  // namespace swiftprune
