// Element types of checkpoints and their conversion to and from float.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace swiftprune {

enum class DType {
  kF32,
  kF16,
  kBF16,
  kF64,
  kBool,
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kU64,
  kI64,
  kF8E4M3,
  kF8E5M2,
  // Carried over from file to file and never computed with.
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kF8E8M0,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kC64
};

std::int64_t size_of(DType dtype);  // bytes of one element; 1 for those of less than a byte
// Of so many elements; nothing when they do not fit in 64 bits, or end inside a byte.
std::optional<std::uint64_t> bytes_of(DType dtype, std::uint64_t numel);
std::string_view name_of(DType dtype);                        // safetensors' spelling: "BF16"
std::optional<DType> dtype_from_name(std::string_view name);  // nothing when unknown
bool is_weight_dtype(DType dtype);  // F32, F16 or BF16: what swiftprune computes with

// Elements that are converted at a time: about one core\'s L2 cache.
inline constexpr std::int64_t kConversionChunk = std::int64_t{1} << 18;

// Conversions round to nearest even; overflow gives infinity; NaN stays NaN, made quiet, with the upper bits
// of its payload.
float f16_to_f32(std::uint16_t bits);
std::uint16_t f32_to_f16(float value);
float bf16_to_f32(std::uint16_t bits);
std::uint16_t f32_to_bf16(float value);

// 8 bits: sign, four of exponent (bias 7), three of mantissa; no infinity, 0x7f and 0xff are NaN
// (Micikevicius et al., arXiv 2209.05433). Rounding saturates at ±448.
enum class E4M3 : std::uint8_t {};
float e4m3_to_f32(E4M3 value);
E4M3 f32_to_e4m3(float value);
inline constexpr float kLargestE4M3 = 448.0f;

// source: `target.size()` elements of F32, F16 or BF16 (little endian, any alignment).
void convert_to_f32(std::span<const std::byte> source, DType dtype, std::span<float> target);
// target: source.size() * size_of(dtype) bytes, any alignment. Negative zero becomes +0.
void convert_from_f32(std::span<const float> source, DType dtype, std::span<std::byte> target);

// A matrix of elements of `size` bytes (2 or 4), turned: source [rows, cols] -> target [cols, rows].
void transpose_bytes(std::span<const std::byte> source, std::int64_t rows, std::int64_t cols,
                     std::int64_t size, std::span<std::byte> target);

}  // namespace swiftprune
