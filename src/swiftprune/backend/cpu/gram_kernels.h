// Raw kernels of add_rounded_gram(). Two tokens (rows 2p and 2p + 1) of an input channel lie in one 32-bit
// word; the words of 16 channels make a panel, in which the pairs follow each other.
#pragma once

#include <cstdint>

namespace swiftprune::cpu::gram_kernels {

inline constexpr std::int64_t kPanel = 16;      // channels of a panel
inline constexpr std::int64_t kTileRows = 8;    // channels of a tile of the Gram matrix, down
inline constexpr std::int64_t kTilePanels = 3;  // panels, across

struct Table {
  // even, odd: [cols] tokens, odd null when the last pair has one. out: the pair's words of the first panel,
  // panel_stride words between panels. The channels that fill up the last panel become 0.
  void (*pack_pair)(const float* even, const float* odd, std::int64_t cols, std::int64_t panel_stride,
                    std::int32_t* out);
  // rows: the first pair's words of kTileRows channels within a panel; cols: the first of kTilePanels panels.
  // sums [kTileRows, kTilePanels·kPanel]: overwritten.
  void (*multiply)(const std::int32_t* rows, const std::int32_t* cols, std::int64_t panel_stride,
                   std::int64_t pairs, float* sums);
};

const Table* avx512_bf16_table();  // null where the compiler knows no such instructions

}  // namespace swiftprune::cpu::gram_kernels
