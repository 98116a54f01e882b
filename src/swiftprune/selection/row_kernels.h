// The inner loops of the exact selectors over one row, one table for each instruction set; all tables give
// the same bits. Keys are non-negative floats, so their order is that of their bit patterns. A row of n keys
// is padded with +infinity to `padded` = n rounded up to kKeyBlock, and its buffer has kKeySlack floats more.
#pragma once

#include <cstdint>

namespace swiftprune {

inline constexpr std::int64_t kKeyBlock = 64;
inline constexpr std::int64_t kKeySlack = 64;

struct RowKernels {
  // weights [n] of the named type, any alignment; column and slope [n] or null (ones, no row term) ->
  // keys [padded] = |w·fma(row, slope, column)|. Returns their sum, which is not finite if a key is not.
  using Score = float (*)(const void* weights, std::int64_t n, const float* column, float row,
                          const float* slope, float* keys);
  Score score_f32;
  Score score_f16;
  Score score_bf16;

  // Keys in [low, high) are packed in order into `inside` (a key buffer, padded with +infinity); returns the
  // number of keys below `low`.
  std::int64_t (*window)(const float* keys, std::int64_t padded, float low, float high, float* inside,
                         std::int64_t* num_inside);
  // The threshold t of the `rank` lowest keys: those below t and the first `ties` equal to it. Needs
  // count(< low) <= rank < count(< high).
  float (*threshold)(const float* keys, std::int64_t padded, std::int64_t rank, float low, float high,
                     std::int64_t* ties);
  // words [padded / 64]: bit 1 = kept, 0 = below the threshold or one of the first `ties` equal to it.
  void (*keep_above)(const float* keys, std::int64_t padded, float threshold, std::int64_t ties,
                     std::uint64_t* words);
  // Keeps the n largest of every m consecutive keys (equal keys: the higher index).
  void (*keep_n_of_m)(const float* keys, std::int64_t padded, int n, int m, std::uint64_t* words);
  // weights [n]: +0 where the bit is 0.
  void (*zero_32)(void* weights, std::int64_t n, const std::uint64_t* words);
  void (*zero_16)(void* weights, std::int64_t n, const std::uint64_t* words);
};

const RowKernels& baseline_row_kernels();
const RowKernels* avx2_row_kernels();  // null when not built for x86-64
const RowKernels* avx512_row_kernels();

}  // namespace swiftprune
