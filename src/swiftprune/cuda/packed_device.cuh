// What the kernels over packed weights share: how a lane decodes its part of a bitmap chunk.
#pragma once

#include "swiftprune/cuda/packed_kernels.h"
#include "swiftprune/cuda/tensor_core.cuh"

namespace swiftprune::cuda {

constexpr int kRows = 16;                    // of a panel
constexpr int kPairs = 32;                   // of columns, of a block: a mask word each
constexpr int kValuesAt = kPairs * (4 + 2);  // bytes into a chunk

inline int blocks_of(std::int64_t cols) {
  return static_cast<int>((cols + kCompactBlock - 1) / kCompactBlock);
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

// __byte_perm without its mask of the selectors.
__device__ __forceinline__ std::uint32_t permute(std::uint32_t low, std::uint32_t high,
                                                 std::uint32_t selectors) {
  std::uint32_t result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selectors));
  return result;
}

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

 private:
  unsigned table_;
  std::uint32_t below_;
  std::uint32_t rotation_;
};

}  // namespace swiftprune::cuda
