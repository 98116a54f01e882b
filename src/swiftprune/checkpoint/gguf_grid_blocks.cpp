// Compiled without contraction of a * b + c, as gguf_dequantize.cpp.
#include "swiftprune/checkpoint/gguf_grid_blocks.h"

#include <bit>
#include <cstring>

#include "swiftprune/checkpoint/gguf_grids.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

constexpr int kGroups = 8;  // of 32 values in a block

unsigned byte_at(const std::byte* p, int i) { return std::to_integer<unsigned>(p[i]); }
unsigned u16_at(const std::byte* p, int i) { return byte_at(p, 2 * i) | (byte_at(p, 2 * i + 1) << 8); }
unsigned u32_at(const std::byte* p, int i) {
  std::uint32_t value = 0;
  std::memcpy(&value, p + 4 * i, sizeof(value));
  return value;
}
float half_at(const std::byte* p) { return f16_to_f32(static_cast<std::uint16_t>(u16_at(p, 0))); }
unsigned nibble_at(const std::byte* p, int i) { return (byte_at(p, i / 2) >> (i % 2 * 4)) & 15u; }

// Seven signs and, as the eighth, what makes their number even.
unsigned even_signs(unsigned seven) { return seven | (std::popcount(seven) % 2 != 0 ? 128u : 0u); }

constexpr std::array kIq2Values = {8.0f, 25.0f, 43.0f};
using Iq3Values = std::array<float, 8>;
constexpr Iq3Values kIq3XxsValues = {4.0f, 12.0f, 20.0f, 28.0f, 36.0f, 44.0f, 52.0f, 62.0f};
constexpr Iq3Values kIq3SValues = {1.0f, 3.0f, 5.0f, 7.0f, 9.0f, 11.0f, 13.0f, 15.0f};

// values [count] = scale · the entry's values, negative where a bit of `signs` is set.
template <int kBits, std::size_t kValues>
void signed_values(const std::array<float, kValues>& of, unsigned entry, unsigned signs, float scale,
                   int count, float* values) {
  for (int i = 0; i < count; ++i) {
    const float value = scale * of[(entry >> (kBits * i)) & ((1u << kBits) - 1)];
    values[i] = ((signs >> i) & 1u) != 0 ? -value : value;
  }
}
void eight_of_iq2(unsigned entry, unsigned signs, float scale, float* values) {
  signed_values<2>(kIq2Values, entry, signs, scale, 8, values);
}
// Two entries of four values each.
void eight_of_iq3(const Iq3Values& of, unsigned first, unsigned second, unsigned signs, float scale,
                  float* values) {
  signed_values<4>(of, first, signs, scale, 4, values);
  signed_values<4>(of, second, signs >> 4, scale, 4, values + 4);
}
// −1, 0 or 1, moved up or down by an eighth.
void eight_of_iq1(unsigned entry, bool down, float scale, float* values) {
  for (int i = 0; i < 8; ++i) {
    const float value = static_cast<float>((entry >> (2 * i)) & 3u) - 1.0f;
    values[i] = scale * (value + (down ? -0.125f : 0.125f));
  }
}

float iq2_scale(float d, unsigned scale) { return d * (0.5f + static_cast<float>(scale)) * 0.25f; }

}  // namespace

// f16 d; for each 32 values four bytes of entries and four of signs (seven bits each) and scale (four).
void iq2_xxs_block(const std::byte* block, float* values) {
  const float d = half_at(block);
  for (int g = 0; g < kGroups; ++g) {
    const std::byte* entries = block + 2 + 8 * g;
    const unsigned rest = u32_at(entries, 1);
    for (int i = 0; i < 4; ++i) {
      eight_of_iq2(kGridIq2Xxs[byte_at(entries, i)], even_signs((rest >> (7 * i)) & 127u),
                   iq2_scale(d, rest >> 28), values + 32 * g + 8 * i);
    }
  }
}

// f16 d; 32 numbers of nine bits of an entry and seven of signs; four bits of scale for 16 values.
void iq2_xs_block(const std::byte* block, float* values) {
  const float d = half_at(block);
  for (int i = 0; i < 4 * kGroups; ++i) {
    const unsigned both = u16_at(block + 2, i);
    eight_of_iq2(kGridIq2Xs[both & 511u], even_signs(both >> 9), iq2_scale(d, nibble_at(block + 66, i / 2)),
                 values + 8 * i);
  }
}

// f16 d; 32 bytes of entries; 32 of signs; 8 of the entries' upper two bits; four bits of scale for 16 values.
void iq2_s_block(const std::byte* block, float* values) {
  const float d = half_at(block);
  for (int i = 0; i < 4 * kGroups; ++i) {
    const unsigned upper = (byte_at(block + 66, i / 4) >> (i % 4 * 2)) & 3u;
    eight_of_iq2(kGridIq2S[byte_at(block + 2, i) | (upper << 8)], byte_at(block + 34, i),
                 iq2_scale(d, nibble_at(block + 74, i / 2)), values + 8 * i);
  }
}

// f16 d; 64 bytes of entries of four values; for each 32 values four times seven bits of signs and four of scale.
void iq3_xxs_block(const std::byte* block, float* values) {
  const float d = half_at(block);
  for (int g = 0; g < kGroups; ++g) {
    const unsigned rest = u32_at(block + 66, g);
    const float scale = d * (0.5f + static_cast<float>(rest >> 28)) * 0.5f;
    for (int i = 0; i < 4; ++i) {
      const std::byte* entries = block + 2 + 8 * g + 2 * i;
      eight_of_iq3(kIq3XxsValues, kGridIq3Xxs[byte_at(entries, 0)], kGridIq3Xxs[byte_at(entries, 1)],
                   even_signs((rest >> (7 * i)) & 127u), scale, values + 32 * g + 8 * i);
    }
  }
}

// f16 d; 64 bytes of entries; 8 bytes of their ninth bits; 32 bytes of signs; four bits of scale for 32 values.
void iq3_s_block(const std::byte* block, float* values) {
  const float d = half_at(block);
  const auto entry = [&](int i) {
    return kGridIq3S[byte_at(block + 2, i) | (((byte_at(block + 66, i / 8) >> (i % 8)) & 1u) << 8)];
  };
  for (int i = 0; i < 4 * kGroups; ++i) {
    const float scale = d * static_cast<float>(1 + 2 * nibble_at(block + 106, i / 4));
    eight_of_iq3(kIq3SValues, entry(2 * i), entry(2 * i + 1), byte_at(block + 74, i), scale, values + 8 * i);
  }
}

// f16 d; 32 bytes of entries; for each 32 values four times the entries' upper three bits, three of scale, the direction.
void iq1_s_block(const std::byte* block, float* values) {
  const float d = half_at(block);
  for (int i = 0; i < 4 * kGroups; ++i) {
    const unsigned rest = u16_at(block + 34, i / 4);
    const unsigned upper = (rest >> (i % 4 * 3)) & 7u;
    eight_of_iq1(kGridIq1[byte_at(block + 2, i) | (upper << 8)], (rest & 0x8000u) != 0,
                 d * static_cast<float>(2 * ((rest >> 12) & 7u) + 1), values + 8 * i);
  }
}

// 32 bytes of entries; for each 8 values their entry's upper three bits and the direction; four numbers of four times three
// bits of scale, for 16 values each, and four bits of the f16 d.
void iq1_m_block(const std::byte* block, float* values) {
  unsigned bits = 0;
  for (int i = 0; i < 4; ++i) bits |= (u16_at(block + 48, i) >> 12) << (4 * i);
  const float d = f16_to_f32(static_cast<std::uint16_t>(bits));
  for (int i = 0; i < 4 * kGroups; ++i) {
    const unsigned rest = nibble_at(block + 32, i), scale = u16_at(block + 48, i / 8) >> (i / 2 % 4 * 3);
    eight_of_iq1(kGridIq1[byte_at(block, i) | ((rest & 7u) << 8)], (rest & 8u) != 0,
                 d * static_cast<float>(2 * (scale & 7u) + 1), values + 8 * i);
  }
}

}  // namespace swiftprune
