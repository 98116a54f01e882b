// Codes on a grid as operands of tensor core products: less their zero points they are exact in 16 bits, and the scale of
// a group multiplies its sums in float.
#pragma once

#include "swiftprune/cuda/sparse/packed_device.cuh"

namespace swiftprune::cuda {

// Two codes in the low bits of 16-bit words as numbers of T, each with `offset` on top: kMagic | code is exact.
template <class T>
inline constexpr std::uint32_t kMagic = 0x43004300u;  // 128
template <>
inline constexpr std::uint32_t kMagic<__half> = 0x64006400u;  // 1024
template <class T>
__device__ __forceinline__ std::uint32_t less(std::uint32_t pair, std::uint32_t offset);
template <>
__device__ __forceinline__ std::uint32_t less<__nv_bfloat16>(std::uint32_t pair, std::uint32_t offset) {
  const __nv_bfloat162 value = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&pair),
                                       *reinterpret_cast<const __nv_bfloat162*>(&offset));
  return *reinterpret_cast<const std::uint32_t*>(&value);
}
template <>
__device__ __forceinline__ std::uint32_t less<__half>(std::uint32_t pair, std::uint32_t offset) {
  const __half2 value =
      __hsub2(*reinterpret_cast<const __half2*>(&pair), *reinterpret_cast<const __half2*>(&offset));
  return *reinterpret_cast<const std::uint32_t*>(&value);
}

template <class T>
__device__ __forceinline__ std::uint32_t twice(std::uint32_t zero) {
  return kMagic<T> | zero * 0x00010001u;
}

// Pair q of a word of eight codes, less the zero point (kMagic | zero, twice).
template <class T>
__device__ __forceinline__ std::uint32_t code_pair(std::uint32_t word, int q, std::uint32_t zero) {
  return less<T>((word >> (4 * q) & 0x000f000fu) | kMagic<T>, zero);
}

// The same of 8 bits: bytes 2q and 2q + 1 of a word of four. zero: byte_zero(). BF16 holds whole numbers up to 256.
inline constexpr float kByteMagic = 0x1p23f;  // its bits | byte are the sum, exactly
__device__ __forceinline__ std::uint32_t byte_zero(std::uint32_t zero) {
  return __float_as_uint(kByteMagic + static_cast<float>(zero));
}
template <class T>
__device__ __forceinline__ std::uint32_t byte_pair(std::uint32_t word, int q, std::uint32_t zero) {
  const std::uint32_t magic = __float_as_uint(kByteMagic);
  const unsigned selector = 0x7440u + 2u * static_cast<unsigned>(q);  // a byte, two of zero, the exponent
  const float low = __uint_as_float(__byte_perm(word, magic, selector)) - __uint_as_float(zero);
  const float high = __uint_as_float(__byte_perm(word, magic, selector + 1)) - __uint_as_float(zero);
  return pack(low, high, T{});
}

// A zero point as the products of codes of kBits take it.
template <class T, int kBits>
__device__ __forceinline__ std::uint32_t zero_word(std::uint32_t zero) {
  return kBits == 8 ? byte_zero(zero) : twice<T>(zero);
}
// The zero points of rows 2g and 2g + 1.
struct ZeroPairs {
  std::uint32_t upper, lower;
};
// middle: zero_word() of the zero point of grids without zeros. two: a byte a row, of grids with them.
template <class T, bool kZeros, int kBits = 4>
__device__ __forceinline__ ZeroPairs zero_pairs(std::uint32_t middle, std::uint32_t two) {
  if constexpr (!kZeros) return {middle, middle};
  return {zero_word<T, kBits>(two & 0xffu), zero_word<T, kBits>(two >> 8)};
}

// sum += scales·part, of rows 2g and 2g + 1; part is 0 afterwards. scales: two of F16
template <int kTiles>
__device__ __forceinline__ void add_scaled(std::uint32_t scales, float (&part)[kTiles][4],
                                           float (&sum)[kTiles][4]) {
  const float2 of_rows = __half22float2(*reinterpret_cast<const __half2*>(&scales));
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum[j][i] = fmaf(i < 2 ? of_rows.x : of_rows.y, part[j][i], sum[j][i]);
      part[j][i] = 0.0f;
    }
  }
}

}  // namespace swiftprune::cuda
