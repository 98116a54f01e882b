// Compiled without contraction of a * b + c: values here are those that are read back.
#include "swiftprune/export/gguf_grid.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

constexpr std::array kGrids = {
    GgmlGrid{.type = GgmlType::kQ4_0, .lowest = -8, .highest = 7},
    GgmlGrid{.type = GgmlType::kQ4_1, .highest = 15, .has_offset = true},
    GgmlGrid{.type = GgmlType::kQ5_0, .lowest = -16, .highest = 15},
    GgmlGrid{.type = GgmlType::kQ5_1, .highest = 31, .has_offset = true},
    GgmlGrid{.type = GgmlType::kQ8_0, .lowest = -127, .highest = 127},
    GgmlGrid{.type = GgmlType::kQ2_K,
             .block = 256,
             .part = 16,
             .highest = 3,
             .has_offset = true,
             .highest_scale = 15,
             .highest_min = 15},
    GgmlGrid{.type = GgmlType::kQ3_K,
             .block = 256,
             .part = 16,
             .lowest = -4,
             .highest = 3,
             .lowest_scale = -32,
             .highest_scale = 31},
    GgmlGrid{.type = GgmlType::kQ4_K,
             .block = 256,
             .part = 32,
             .highest = 15,
             .has_offset = true,
             .highest_scale = 63,
             .highest_min = 63},
    GgmlGrid{.type = GgmlType::kQ5_K,
             .block = 256,
             .part = 32,
             .highest = 31,
             .has_offset = true,
             .highest_scale = 63,
             .highest_min = 63},
    GgmlGrid{.type = GgmlType::kQ6_K,
             .block = 256,
             .part = 16,
             .lowest = -32,
             .highest = 31,
             .lowest_scale = -128,
             .highest_scale = 127},
};

// Bytes of a block that starts out as zeros; bits are added to them.
class BlockBytes {
 public:
  explicit BlockBytes(std::byte* bytes) : bytes_(bytes) {}
  void half(int at, std::uint16_t value) { std::memcpy(bytes_ + at, &value, sizeof value); }
  void add(int at, int bits, int shift) { bytes_[at] |= static_cast<std::byte>(bits << shift); }

 private:
  std::byte* bytes_;
};

// d, [m,] [32 fifth bits,] nibbles: weight i beside weight i + 16.
void pack_nibbles(const GgmlGrid& grid, const BlockScales& scales, const std::uint8_t* stored,
                  BlockBytes bytes) {
  bytes.half(0, scales.d);
  int at = 2;
  if (grid.has_offset) bytes.half(std::exchange(at, at + 2), scales.m);
  if (grid.highest - grid.lowest > 15) {
    for (int i = 0; i < 32; ++i) bytes.add(at + i / 8, stored[i] >> 4, i % 8);
    at += 4;
  }
  for (int i = 0; i < 32; ++i) bytes.add(at + i % 16, stored[i] & 15, i / 16 * 4);
}

// Weight 128 h + 32 j + l: bits 2j of byte 32 h + l.
void pack_two_bits(const std::uint8_t* stored, int at, BlockBytes bytes) {
  for (int i = 0; i < 256; ++i) bytes.add(at + i / 128 * 32 + i % 32, stored[i] & 3, i % 128 / 32 * 2);
}

void pack_q2_k(const BlockScales& scales, const std::uint8_t* stored, BlockBytes bytes) {
  for (int s = 0; s < 16; ++s) {
    bytes.add(s, scales.scale[static_cast<std::size_t>(s)], 0);
    bytes.add(s, scales.min[static_cast<std::size_t>(s)], 4);
  }
  pack_two_bits(stored, 16, bytes);
  bytes.half(80, scales.d);
  bytes.half(82, scales.m);
}

void pack_q3_k(const BlockScales& scales, const std::uint8_t* stored, BlockBytes bytes) {
  for (int i = 0; i < 256; ++i) bytes.add(i % 32, stored[i] >> 2, i / 32);
  pack_two_bits(stored, 32, bytes);
  for (int s = 0; s < 16; ++s) {
    const int scale = scales.scale[static_cast<std::size_t>(s)] + 32;
    bytes.add(96 + s % 8, scale & 15, s / 8 * 4);
    bytes.add(104 + s % 4, scale >> 4, s / 4 * 2);
  }
  bytes.half(108, scales.d);
}

// d, m, 12 bytes of 8 scales and 8 minima of 6 bits, [32 bytes of fifth bits,] nibbles: part 2p beside part
// 2p + 1.
void pack_q4_k_or_q5_k(const GgmlGrid& grid, const BlockScales& scales, const std::uint8_t* stored,
                       BlockBytes bytes) {
  bytes.half(0, scales.d);
  bytes.half(2, scales.m);
  for (int s = 0; s < 8; ++s) {
    const int scale = scales.scale[static_cast<std::size_t>(s)],
              min = scales.min[static_cast<std::size_t>(s)];
    if (s < 4) {
      bytes.add(4 + s, scale, 0);
      bytes.add(8 + s, min, 0);
    } else {
      bytes.add(8 + s, (scale & 15) | ((min & 15) << 4), 0);
      bytes.add(s, scale >> 4, 6);
      bytes.add(4 + s, min >> 4, 6);
    }
  }
  int at = 16;
  if (grid.highest > 15) {
    for (int i = 0; i < 256; ++i) bytes.add(at + i % 32, stored[i] >> 4, i / 32);
    at += 32;
  }
  for (int i = 0; i < 256; ++i) bytes.add(at + i / 64 * 32 + i % 32, stored[i] & 15, i % 64 / 32 * 4);
}

void pack_q6_k(const BlockScales& scales, const std::uint8_t* stored, BlockBytes bytes) {
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, within = i % 128;
    bytes.add(half * 64 + within % 64, stored[i] & 15, within / 64 * 4);
    bytes.add(128 + half * 32 + within % 32, stored[i] >> 4, within / 32 * 2);
  }
  for (int s = 0; s < 16; ++s) {
    bytes.add(192 + s, static_cast<std::uint8_t>(scales.scale[static_cast<std::size_t>(s)]), 0);
  }
  bytes.half(208, scales.d);
}

}  // namespace

const GgmlGrid* find_grid(GgmlType type) {
  const auto* found =
      std::find_if(kGrids.begin(), kGrids.end(), [type](const GgmlGrid& grid) { return grid.type == type; });
  return found == kGrids.end() ? nullptr : found;
}

GridLine line_of(const GgmlGrid& grid, const BlockScales& scales, int part) {
  const auto p = static_cast<std::size_t>(part);
  const float d = f16_to_f32(scales.d), m = f16_to_f32(scales.m);
  GridLine line{.lowest = static_cast<float>(grid.lowest), .highest = static_cast<float>(grid.highest)};
  line.step = grid.has_scales() ? d * static_cast<float>(scales.scale[p]) : d;
  if (grid.has_offset) line.offset = grid.has_scales() ? -(m * static_cast<float>(scales.min[p])) : m;
  line.inverse = line.step == 0.0f ? 0.0f : 1.0f / line.step;
  return line;
}

std::uint16_t finite_f16(float value) {
  constexpr float kLargest = 65504.0f;
  return f32_to_f16(std::clamp(value, -kLargest, kLargest));
}

void tie_offsets(const GgmlGrid& grid, BlockScales& scales) {
  if (!grid.has_offset) return;
  const auto zero = static_cast<float>(grid.zero_code());  // a power of two: the product is exact
  const float d = f16_to_f32(scales.d);
  scales.m = finite_f16(grid.has_scales() ? zero * d : -zero * d);
  scales.min = scales.scale;
}

int GridLine::nearest_code(float x) const {
  return static_cast<int>(std::clamp(std::nearbyint((x - offset) * inverse), lowest, highest));
}

void pack_block(const GgmlGrid& grid, const BlockScales& scales, const std::int8_t* codes, std::byte* block) {
  const auto size =
      static_cast<std::size_t>(find_ggml_type(static_cast<std::uint32_t>(grid.type))->block_bytes);
  if (grid.type == GgmlType::kQ8_0) {
    std::memcpy(block, &scales.d, sizeof scales.d);
    std::memcpy(block + 2, codes, 32);
    return;
  }
  std::fill_n(block, size, std::byte{0});
  std::array<std::uint8_t, kLargestBlock> stored{};
  for (int i = 0; i < grid.block; ++i) {
    stored[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(codes[i] - grid.lowest);
  }
  switch (grid.type) {
    case GgmlType::kQ2_K:
      return pack_q2_k(scales, stored.data(), BlockBytes(block));
    case GgmlType::kQ3_K:
      return pack_q3_k(scales, stored.data(), BlockBytes(block));
    case GgmlType::kQ4_K:
    case GgmlType::kQ5_K:
      return pack_q4_k_or_q5_k(grid, scales, stored.data(), BlockBytes(block));
    case GgmlType::kQ6_K:
      return pack_q6_k(scales, stored.data(), BlockBytes(block));
    default:
      return pack_nibbles(grid, scales, stored.data(), BlockBytes(block));
  }
}

}  // namespace swiftprune
