// The grids of GGUF's quantised types and their blocks, as numbers: f16 scales, small integers that scale
// each part of a K-quant's block, and a code for each weight.
//   value = step·code + offset
//   blocks of 32:             step = d,       offset = m       (0 without m)
//   K-quants, blocks of 256:  step = d·scale, offset = -m·min  (0 without m), in parts of 16 or 32
// Layouts: ggml's block formats; checkpoint/gguf_dequantize.h reads what is written here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "swiftprune/checkpoint/gguf_dequantize.h"

namespace swiftprune {

inline constexpr int kLargestBlock = 256;
inline constexpr int kMostParts = 16;

struct GgmlGrid {
  GgmlType type;
  int block = 32;                           // weights
  int part = 32;                            // weights that share a step and an offset
  int lowest = 0, highest = 0;              // codes
  bool has_offset = false;                  // then lowest is 0
  int lowest_scale = 0, highest_scale = 0;  // of the parts; both 0: the step is d itself
  int highest_min = 0;

  int parts() const { return block / part; }
  bool has_scales() const { return highest_scale != 0; }
  // The code of zero where zeros are kept: it splits the codes evenly.
  int zero_code() const { return has_offset ? (highest + 1) / 2 : 0; }
};

// Null for types without a grid (F32, F16, BF16) and for those that are not written.
const GgmlGrid* find_grid(GgmlType type);

// Values beyond f16's range become its largest.
std::uint16_t finite_f16(float value);

struct BlockScales {
  std::uint16_t d = 0, m = 0;  // f16, finite
  std::array<std::int8_t, kMostParts> scale{}, min{};
};

// The values of one part, exactly as they are read back.
struct GridLine {
  float step = 0.0f, offset = 0.0f;
  float inverse = 0.0f;  // of step; 0 where every value is the offset
  float lowest = 0.0f, highest = 0.0f;

  float value(int code) const { return step * static_cast<float>(code) + offset; }
  int nearest_code(float x) const;  // halves to even
};
GridLine line_of(const GgmlGrid& grid, const BlockScales& scales, int part);

// Makes the zero code's value 0 in a type with an offset, whatever d and the parts' scales are.
void tie_offsets(const GgmlGrid& grid, BlockScales& scales);

// The scales that make Σ weight·(value - x)² small: candidates for each part, then the block's own numbers
// with its neighbours' codes, by least squares in turns with rounding.
// x, weights [grid.block]: finite, weights >= 0. keep_zeros: x = 0 has a code whose value is 0.
BlockScales fit_block(const GgmlGrid& grid, const float* x, const float* weights, bool keep_zeros);

// The codes nearest to x [grid.block].
void round_block(const GgmlGrid& grid, const BlockScales& scales, const float* x, std::int8_t* codes);

// The bytes of a block: GgmlTypeTraits::block_bytes. codes [grid.block] inside the grid.
void pack_block(const GgmlGrid& grid, const BlockScales& scales, const std::int8_t* codes, std::byte* block);

}  // namespace swiftprune
