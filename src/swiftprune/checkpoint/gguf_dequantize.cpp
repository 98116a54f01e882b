// Compiled without contraction of a * b + c, so that results do not depend on the processor having FMA.
#include "swiftprune/checkpoint/gguf_dequantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "swiftprune/checkpoint/gguf_grid_blocks.h"
#include "swiftprune/core/error.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

constexpr int kSuperBlock = 256;  // elements of a K-quant's block

int byte_at(const std::byte* p, int i) { return std::to_integer<int>(p[i]); }
int int8_at(const std::byte* p, int i) { return static_cast<std::int8_t>(p[i]); }

float half_at(const std::byte* p) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, p, 2);
  return f16_to_f32(bits);
}

template <DType kType>
void convert(const std::byte* block, std::int64_t n, float* values) {
  convert_to_f32({block, static_cast<std::size_t>(n * size_of(kType))}, kType,
                 {values, static_cast<std::size_t>(n)});
}

// Blocks of 32 with one scale: f16 d, [f16 m,] [u32 fifth bits,] 16 bytes of nibbles (low ones first).
template <bool kHasMin, bool kHasFifthBit>
void nibble_block(const std::byte* block, float* values) {
  const float d = half_at(block);
  const float m = kHasMin ? half_at(block + 2) : 0.0f;
  const std::byte* p = block + (kHasMin ? 4 : 2);
  std::uint32_t fifth = 0;
  if (kHasFifthBit) {
    std::memcpy(&fifth, p, 4);
    p += 4;
  }
  for (int i = 0; i < 16; ++i) {
    int low = byte_at(p, i) & 15;
    int high = byte_at(p, i) >> 4;
    if (kHasFifthBit) {
      low |= static_cast<int>((fifth >> i) & 1u) << 4;
      high |= static_cast<int>((fifth >> (i + 16)) & 1u) << 4;
    }
    constexpr int kCenter = kHasFifthBit ? 16 : 8;
    values[i] = kHasMin ? d * static_cast<float>(low) + m : d * static_cast<float>(low - kCenter);
    values[i + 16] = kHasMin ? d * static_cast<float>(high) + m : d * static_cast<float>(high - kCenter);
  }
}

// f16 d, 32 signed bytes.
void q8_0_block(const std::byte* block, float* values) {
  const float d = half_at(block);
  for (int i = 0; i < 32; ++i) values[i] = static_cast<float>(int8_at(block, 2 + i)) * d;
}

// 16 bytes of scale and minimum (4 bits each) for 16 elements, 64 bytes of 2-bit values, f16 d, f16 dmin.
// Value 128 h + 32 j + l is in bits 2j of byte 32 h + l.
void q2_k_block(const std::byte* block, float* values) {
  const std::byte* quants = block + 16;
  const float d = half_at(block + 80);
  const float dmin = half_at(block + 82);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int scale = byte_at(block, i / 16);
    const int q = (byte_at(quants, i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2)) & 3;
    values[i] =
        d * static_cast<float>(scale & 15) * static_cast<float>(q) - dmin * static_cast<float>(scale >> 4);
  }
}

// 32 bytes of third bits (cleared: minus 4), 64 bytes of 2-bit values as above, 12 bytes of 6-bit scales, f16
// d.
void q3_k_block(const std::byte* block, float* values) {
  const std::byte* quants = block + 32;
  const std::byte* scales = block + 96;
  const float d = half_at(block + 108);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int s = i / 16;
    const int low = (byte_at(scales, s % 8) >> (s / 8 * 4)) & 15;
    const int high = (byte_at(scales, 8 + s % 4) >> (s / 4 * 2)) & 3;
    const float scale = d * static_cast<float>((low | (high << 4)) - 32);
    const int q = (byte_at(quants, i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2)) & 3;
    const int third = (byte_at(block, i % 32) >> (i / 32)) & 1;
    values[i] = scale * static_cast<float>(third != 0 ? q : q - 4);
  }
}

// The 12 bytes that hold 8 scales and 8 minima of 6 bits.
std::pair<int, int> scale_and_min(const std::byte* packed, int s) {
  if (s < 4) return {byte_at(packed, s) & 63, byte_at(packed, s + 4) & 63};
  const int last = byte_at(packed, s + 4);
  return {(last & 15) | ((byte_at(packed, s - 4) >> 6) << 4), (last >> 4) | ((byte_at(packed, s) >> 6) << 4)};
}

// f16 d, f16 dmin, 12 bytes of scales, [32 bytes of fifth bits,] 128 bytes of nibbles: 32 low ones, then the
// 32 high ones of the same bytes.
template <bool kHasFifthBit>
void q4_k_or_q5_k_block(const std::byte* block, float* values) {
  const float d = half_at(block);
  const float dmin = half_at(block + 2);
  const std::byte* fifths = block + 16;
  const std::byte* quants = fifths + (kHasFifthBit ? 32 : 0);
  for (int s = 0; s < 8; ++s) {
    const auto [scale, min] = scale_and_min(block + 4, s);
    const float step = d * static_cast<float>(scale);
    const float offset = dmin * static_cast<float>(min);
    for (int l = 0; l < 32; ++l) {
      int q = (byte_at(quants, s / 2 * 32 + l) >> (s % 2 * 4)) & 15;
      if (kHasFifthBit) q |= ((byte_at(fifths, l) >> s) & 1) << 4;
      values[32 * s + l] = step * static_cast<float>(q) - offset;
    }
  }
}

// 128 bytes of low nibbles, 64 bytes of upper 2 bits, 16 signed scales of 16 elements, f16 d.
void q6_k_block(const std::byte* block, float* values) {
  const std::byte* upper = block + 128;
  const std::byte* scales = block + 192;
  const float d = half_at(block + 208);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int half = i / 128;
    const int within = i % 128;
    const int low = (byte_at(block, half * 64 + within % 64) >> (within / 64 * 4)) & 15;
    const int high = (byte_at(upper, half * 32 + within % 32) >> (within / 32 * 2)) & 3;
    const float step = d * static_cast<float>(int8_at(scales, i / 16));
    values[i] = step * static_cast<float>((low | (high << 4)) - 32);
  }
}

// Four bits that choose one of 16 values, which lie closer together near zero.
constexpr std::array kNonLinear = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// 16 bytes of nibbles, low ones first, each the index of a value.
void indexed_nibbles(const std::byte* nibbles, const std::array<int, 16>& of, float scale, float* values) {
  for (int i = 0; i < 16; ++i) {
    values[i] = scale * static_cast<float>(of[static_cast<std::size_t>(byte_at(nibbles, i) & 15)]);
    values[i + 16] = scale * static_cast<float>(of[static_cast<std::size_t>(byte_at(nibbles, i) >> 4)]);
  }
}

// f16 d, 16 bytes of nibbles.
void iq4_nl_block(const std::byte* block, float* values) {
  indexed_nibbles(block + 2, kNonLinear, half_at(block), values);
}

// f16 d, u16 of the upper 2 bits of 8 scales, 4 bytes of their lower 4 bits, 128 bytes of nibbles.
void iq4_xs_block(const std::byte* block, float* values) {
  const float d = half_at(block);
  const int upper = byte_at(block, 2) | (byte_at(block, 3) << 8);
  for (int s = 0; s < 8; ++s) {
    const int low = (byte_at(block, 4 + s / 2) >> (s % 2 * 4)) & 15;
    const int high = (upper >> (2 * s)) & 3;
    const float scale = d * static_cast<float>((low | (high << 4)) - 32);
    indexed_nibbles(block + 8 + 16 * s, kNonLinear, scale, values + 32 * s);
  }
}

// OCP microscaling: a power of two (biased by 127), 16 bytes of E2M1 nibbles. The table holds twice E2M1's
// values, so the scale is half of the power.
void mxfp4_block(const std::byte* block, float* values) {
  constexpr std::array kTwiceE2M1 = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  const float half_power = std::ldexp(1.0f, byte_at(block, 0) - 128);
  indexed_nibbles(block + 1, kTwiceE2M1, half_power, values);
}

// A byte holds up to five numbers of 0, 1 or 2 as a fraction of 256: times three, the integer part is the
// first one, and what stays in the byte holds the others.
void ternary_bytes(const std::byte* bytes, int num_bytes, int numbers, float d, float* values) {
  for (int n = 0, power = 1; n < numbers; ++n, power *= 3) {
    for (int i = 0; i < num_bytes; ++i) {
      const int rest = (byte_at(bytes, i) * power) & 255;
      values[n * num_bytes + i] = d * static_cast<float>(((rest * 3) >> 8) - 1);
    }
  }
}

// Five numbers a byte: 32 bytes for 160 values, 16 for 80; then 4 bytes of four numbers; f16 d.
void tq1_0_block(const std::byte* block, float* values) {
  const float d = half_at(block + 52);
  ternary_bytes(block, 32, 5, d, values);
  ternary_bytes(block + 32, 16, 5, d, values + 160);
  ternary_bytes(block + 48, 4, 4, d, values + 240);
}

// 64 bytes of 2-bit values as in q2_k, minus 1; f16 d.
void tq2_0_block(const std::byte* block, float* values) {
  const float d = half_at(block + 64);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int q = (byte_at(block, i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2)) & 3;
    values[i] = d * static_cast<float>(q - 1);
  }
}

template <int kSize, int kBytes, void (*kBlock)(const std::byte*, float*)>
void each_block(const std::byte* blocks, std::int64_t num_blocks, float* values) {
  for (std::int64_t b = 0; b < num_blocks; ++b) kBlock(blocks + b * kBytes, values + b * kSize);
}

constexpr std::array kTypes = {
    GgmlTypeTraits{GgmlType::kF32, "F32", 1, 4, convert<DType::kF32>},
    GgmlTypeTraits{GgmlType::kF16, "F16", 1, 2, convert<DType::kF16>},
    GgmlTypeTraits{GgmlType::kBF16, "BF16", 1, 2, convert<DType::kBF16>},
    GgmlTypeTraits{GgmlType::kQ4_0, "Q4_0", 32, 18, each_block<32, 18, nibble_block<false, false>>},
    GgmlTypeTraits{GgmlType::kQ4_1, "Q4_1", 32, 20, each_block<32, 20, nibble_block<true, false>>},
    GgmlTypeTraits{GgmlType::kQ5_0, "Q5_0", 32, 22, each_block<32, 22, nibble_block<false, true>>},
    GgmlTypeTraits{GgmlType::kQ5_1, "Q5_1", 32, 24, each_block<32, 24, nibble_block<true, true>>},
    GgmlTypeTraits{GgmlType::kQ8_0, "Q8_0", 32, 34, each_block<32, 34, q8_0_block>},
    GgmlTypeTraits{GgmlType::kQ2_K, "Q2_K", 256, 84, each_block<256, 84, q2_k_block>},
    GgmlTypeTraits{GgmlType::kQ3_K, "Q3_K", 256, 110, each_block<256, 110, q3_k_block>},
    GgmlTypeTraits{GgmlType::kQ4_K, "Q4_K", 256, 144, each_block<256, 144, q4_k_or_q5_k_block<false>>},
    GgmlTypeTraits{GgmlType::kQ5_K, "Q5_K", 256, 176, each_block<256, 176, q4_k_or_q5_k_block<true>>},
    GgmlTypeTraits{GgmlType::kQ6_K, "Q6_K", 256, 210, each_block<256, 210, q6_k_block>},
    GgmlTypeTraits{GgmlType::kIQ4_NL, "IQ4_NL", 32, 18, each_block<32, 18, iq4_nl_block>},
    GgmlTypeTraits{GgmlType::kIQ4_XS, "IQ4_XS", 256, 136, each_block<256, 136, iq4_xs_block>},
    GgmlTypeTraits{GgmlType::kIQ3_S, "IQ3_S", 256, 110, each_block<256, 110, iq3_s_block>},
    GgmlTypeTraits{GgmlType::kIQ3_XXS, "IQ3_XXS", 256, 98, each_block<256, 98, iq3_xxs_block>},
    GgmlTypeTraits{GgmlType::kIQ2_S, "IQ2_S", 256, 82, each_block<256, 82, iq2_s_block>},
    GgmlTypeTraits{GgmlType::kIQ2_XS, "IQ2_XS", 256, 74, each_block<256, 74, iq2_xs_block>},
    GgmlTypeTraits{GgmlType::kIQ2_XXS, "IQ2_XXS", 256, 66, each_block<256, 66, iq2_xxs_block>},
    GgmlTypeTraits{GgmlType::kIQ1_M, "IQ1_M", 256, 56, each_block<256, 56, iq1_m_block>},
    GgmlTypeTraits{GgmlType::kIQ1_S, "IQ1_S", 256, 50, each_block<256, 50, iq1_s_block>},
    GgmlTypeTraits{GgmlType::kTQ1_0, "TQ1_0", 256, 54, each_block<256, 54, tq1_0_block>},
    GgmlTypeTraits{GgmlType::kTQ2_0, "TQ2_0", 256, 66, each_block<256, 66, tq2_0_block>},
    GgmlTypeTraits{GgmlType::kMXFP4, "MXFP4", 32, 17, each_block<32, 17, mxfp4_block>},
};

constexpr std::pair<std::uint32_t, std::string_view> kOtherTypes[] = {
    {9, "Q8_1"}, {15, "Q8_K"}, {24, "I8"},    {25, "I16"}, {26, "I32"},
    {27, "I64"}, {28, "F64"},  {40, "NVFP4"}, {41, "Q1_0"}};

}  // namespace

const GgmlTypeTraits* find_ggml_type(std::uint32_t type) {
  const auto* found = std::find_if(kTypes.begin(), kTypes.end(), [&](const GgmlTypeTraits& traits) {
    return static_cast<std::uint32_t>(traits.type) == type;
  });
  return found == kTypes.end() ? nullptr : found;
}

std::string ggml_type_name(std::uint32_t type) {
  if (const GgmlTypeTraits* traits = find_ggml_type(type)) return std::string(traits->name);
  for (const auto& [id, name] : kOtherTypes) {
    if (id == type) return std::string(name);
  }
  return fmt::format("type {}", type);
}

std::string readable_ggml_types() {
  std::vector<std::string_view> names;
  for (const GgmlTypeTraits& traits : kTypes) names.push_back(traits.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

void dequantize(const GgmlTypeTraits& type, std::span<const std::byte> blocks, std::span<float> values) {
  const auto n = static_cast<std::int64_t>(values.size());
  expect(n % type.block_size == 0, "dequantize: a whole number of blocks");
  const std::int64_t num_blocks = n / type.block_size;
  expect(static_cast<std::int64_t>(blocks.size()) == num_blocks * type.block_bytes,
         "dequantize: sizes match");
  type.dequantize(blocks.data(), num_blocks, values.data());
}

}  // namespace swiftprune
