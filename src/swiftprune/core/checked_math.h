// Arithmetic on numbers that come from files: overflow is an answer, not a wrap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace swiftprune {

inline std::optional<std::uint64_t> checked_add(std::uint64_t a, std::uint64_t b) {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

inline std::optional<std::uint64_t> checked_mul(std::uint64_t a, std::uint64_t b) {
  std::uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

inline constexpr std::size_t kMaxTensorRank = 64;  // as many extents as PyTorch takes

// Number of elements of a shape; nothing when it does not fit (also above 2^62, so that signed sizes stay
// valid).
inline std::optional<std::uint64_t> checked_numel(std::span<const std::int64_t> shape) {
  std::uint64_t n = 1;
  for (std::int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    const auto product = checked_mul(n, static_cast<std::uint64_t>(extent));
    if (!product || *product > (std::uint64_t{1} << 62)) return std::nullopt;
    n = *product;
  }
  return n;
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

}  // namespace swiftprune
