// What the kernels over packed weights share: how a lane decodes its part of a bitmap chunk.
#pragma once

#include <type_traits>

#include "swiftprune/cuda/runtime/tensor_core.cuh"
#include "swiftprune/cuda/sparse/packed_kernels.h"

namespace swiftprune::cuda {

constexpr int kRows = 16;                    // of a panel
constexpr int kPairs = 32;                   // of columns, of a block: a mask word each
constexpr int kValuesAt = kPairs * (4 + 2);  // bytes into a chunk

inline int blocks_of(std::int64_t cols) {
  return static_cast<int>((cols + kCompactBlock - 1) / kCompactBlock);
}
inline int grid_units_of(std::int64_t cols) {
  return static_cast<int>((cols + TwoFourGridWeight::kUnitCols - 1) / TwoFourGridWeight::kUnitCols);
}
inline std::int64_t panels_of(std::int64_t rows) { return (rows + kRows - 1) / kRows; }

// 32 bytes.
struct alignas(16) Words {
  std::uint32_t v[8];
};
__device__ __forceinline__ Words load_words(const std::byte* p) {
  Words words;
  const auto* source = reinterpret_cast<const uint4*>(p);
  reinterpret_cast<uint4*>(&words)[0] = source[0];
  reinterpret_cast<uint4*>(&words)[1] = source[1];
  return words;
}
__device__ __forceinline__ void store_words(void* p, const Words& words) {
  reinterpret_cast<uint4*>(p)[0] = reinterpret_cast<const uint4*>(&words)[0];
  reinterpret_cast<uint4*>(p)[1] = reinterpret_cast<const uint4*>(&words)[1];
}

// How the values of four positions, packed in two words, go to their places: byte permutations for positions
// 0, 1 (from the first word and zero) and 2, 3 (from both words), and which of 2, 3 there are.
struct Spread {
  std::uint32_t selectors;
  std::uint32_t mask;
};
__device__ __forceinline__ Spread spread_of(std::uint32_t bits) {
  const std::uint32_t b[4] = {bits & 1u, bits >> 1 & 1u, bits >> 2 & 1u, bits >> 3 & 1u};
  const auto half = [](std::uint32_t index) { return 0x10u + 0x22u * index; };  // bytes 2·index, + 1
  constexpr std::uint32_t kZero = 0x44u;
  const std::uint32_t upper = (b[0] != 0 ? half(0) : kZero) | (b[1] != 0 ? half(b[0]) : kZero) << 8;
  const std::uint32_t lower = half(b[0] + b[1]) | half(b[0] + b[1] + b[2]) << 8;
  return {upper | lower << 16, (b[2] != 0 ? 0xffffu : 0u) | (b[3] != 0 ? 0xffff0000u : 0u)};
}
// The same for bytes: one permutation of the packed bytes (and zero) gives all four positions.
__device__ __forceinline__ Spread byte_spread_of(std::uint32_t bits) {
  std::uint32_t selectors = 0;
  std::uint32_t next = 0;
  for (int i = 0; i < 4; ++i) selectors |= ((bits >> i & 1u) != 0 ? next++ : 4u) << (4 * i);
  return {selectors, 0};
}
template <Stored kStored>
__device__ __forceinline__ Spread table_entry(std::uint32_t bits) {
  return kStored == Stored::kHalf ? spread_of(bits) : byte_spread_of(bits);
}

// __byte_perm without its mask of the selectors.
__device__ __forceinline__ std::uint32_t permute(std::uint32_t low, std::uint32_t high,
                                                 std::uint32_t selectors) {
  std::uint32_t result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selectors));
  return result;
}

// Two stored bytes in the upper halves of 16-bit words (0xbb00aa00) as numbers of T.
template <Stored kStored>
__device__ __forceinline__ std::uint32_t widen(std::uint32_t two, __half) {
  if constexpr (kStored == Stored::kInt8) {  // 1024 + magnitude is exact
    const __half2 offset = __float2half2_rn(1024.0f);
    std::uint32_t size = (two >> 8 & 0x007f007fu) | 0x64006400u;
    const __half2 value = __hsub2(*reinterpret_cast<const __half2*>(&size), offset);
    return *reinterpret_cast<const std::uint32_t*>(&value) | (two & 0x80008000u);
  } else {  // the exponent's bias grows by 8: kWideningE4M3<__half>
    return (two >> 1 & 0x3f803f80u) | (two & 0x80008000u);
  }
}
template <Stored kStored>
__device__ __forceinline__ std::uint32_t widen(std::uint32_t two, __nv_bfloat16) {
  std::uint32_t bits;
  __nv_bfloat162 value;
  if constexpr (kStored == Stored::kInt8) {  // 128 + magnitude is exact
    bits = (two >> 8 & 0x007f007fu) | 0x43004300u;
    value = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&bits), __float2bfloat162_rn(128.0f));
    return *reinterpret_cast<const std::uint32_t*>(&value) | (two & 0x80008000u);
  } else {  // the bias grows by 120, and float sums could not hold that
    bits = (two >> 4 & 0x07f007f0u) | (two & 0x80008000u);
    value = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&bits), __float2bfloat162_rn(0x1p120f));
    return *reinterpret_cast<const std::uint32_t*>(&value);
  }
}
// What a row's scale makes up for.
template <class T, Stored kStored>
inline constexpr float kWidening = 1.0f;
template <>
inline constexpr float kWidening<__half, Stored::kE4M3> = 256.0f;

// What a lane needs to decode its words. Lane 4g + t takes pairs 8t .. 8t + 7, one a step, of each bits
// 4g .. 4g + 3: rows 2g and 2g + 1. So the values of a step lie side by side, and the inputs of a lane too.
class Decoder {
 public:
  // table: 128-byte aligned
  __device__ Decoder(const Spread* table, int g)
      : table_(shared_address(table)), below_((1u << (4 * g)) - 1u), rotation_(35 - 4 * g) {}
  // first: shared address of the word's first value. upper: row 2g (two columns), lower: row 2g + 1. Reads up
  // to 12 bytes beyond the last value.
  __device__ __forceinline__ void decode(std::uint32_t word, unsigned first, std::uint32_t& upper,
                                         std::uint32_t& lower) const {
    const unsigned address = first + 2 * __popc(word & below_);
    std::uint32_t w[3];
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(w[0]) : "r"(address & ~3u));
    asm volatile("ld.shared.u32 %0, [%1+4];" : "=r"(w[1]) : "r"(address & ~3u));
    asm volatile("ld.shared.u32 %0, [%1+8];" : "=r"(w[2]) : "r"(address & ~3u));
    const unsigned entry = table_ | (__funnelshift_l(word, word, rotation_) & 0x78u);  // 8·bits
    Spread spread;
    asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(spread.selectors), "=r"(spread.mask) : "r"(entry));
    const std::uint32_t low = __funnelshift_r(w[0], w[1], address << 3);  // from the middle of a word or not
    const std::uint32_t high = __funnelshift_r(w[1], w[2], address << 3);
    upper = permute(low, 0u, spread.selectors);
    lower = permute(low, high, spread.selectors >> 16) & spread.mask;
  }

  // The same for stored bytes; reads up to 7 bytes beyond the last value.
  template <Stored kStored, class T>
  __device__ __forceinline__ void decode_bytes(std::uint32_t word, unsigned first, std::uint32_t& upper,
                                               std::uint32_t& lower) const {
    const unsigned address = first + __popc(word & below_);
    std::uint32_t w[2];
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(w[0]) : "r"(address & ~3u));
    asm volatile("ld.shared.u32 %0, [%1+4];" : "=r"(w[1]) : "r"(address & ~3u));
    const unsigned entry = table_ | (__funnelshift_l(word, word, rotation_) & 0x78u);  // 8·bits
    std::uint32_t selectors;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(selectors) : "r"(entry));
    const std::uint32_t packed = __funnelshift_r(w[0], w[1], address << 3);
    const std::uint32_t four = permute(packed, 0u, selectors);
    upper = widen<kStored>(permute(four, 0u, 0x1404u), T{});
    lower = widen<kStored>(permute(four, 0u, 0x3424u), T{});
  }
  template <Stored kStored, class T>
  __device__ __forceinline__ void decode_as(std::uint32_t word, unsigned first, std::uint32_t& upper,
                                            std::uint32_t& lower) const {
    if constexpr (kStored == Stored::kHalf) {
      decode(word, first, upper, lower);
    } else {
      decode_bytes<kStored, T>(word, first, upper, lower);
    }
  }

 private:
  unsigned table_;
  std::uint32_t below_;
  std::uint32_t rotation_;
};

// Calls body with the kind as a constant.
template <class Body>
void with_stored(Stored stored, const Body& body) {
  switch (stored) {
    case Stored::kHalf:
      return body(std::integral_constant<Stored, Stored::kHalf>{});
    case Stored::kInt8:
      return body(std::integral_constant<Stored, Stored::kInt8>{});
    case Stored::kE4M3:
      return body(std::integral_constant<Stored, Stored::kE4M3>{});
  }
}

}  // namespace swiftprune::cuda
