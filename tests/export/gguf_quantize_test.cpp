#include "swiftprune/export/gguf_quantize.h"

#include <array>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

TEST(GgufQuantize, Q8ByHand) {
  // max 127/64: d = 1/64, which f16 holds, so every multiple of 1/64 is exact and halves round away from 0.
  std::vector<float> values(32, 0.0f);
  values[0] = 127.0f / 64.0f;
  values[1] = -127.0f / 64.0f;
  values[2] = 2.5f / 64.0f;
  values[3] = -2.5f / 64.0f;
  values[4] = 1.0f / 64.0f;
  const GgmlTypeTraits& q8 = *writable_ggml_type(GgmlType::kQ8_0);
  std::array<std::byte, 34> block{};
  quantize(q8, values, block);
  const std::uint16_t d = f32_to_f16(1.0f / 64.0f);
  EXPECT_EQ(block[0], static_cast<std::byte>(d & 255));
  EXPECT_EQ(block[1], static_cast<std::byte>(d >> 8));
  const std::array<int, 6> expected = {127, -127, 3, -3, 1, 0};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(static_cast<std::int8_t>(block[2 + i]), expected[i]) << i;
  }
}

TEST(GgufQuantize, Q8KeepsZerosAndIsWithinHalfAStep) {
  const GgmlTypeTraits& q8 = *writable_ggml_type(GgmlType::kQ8_0);
  std::vector<float> values(96);
  for (std::size_t i = 0; i < 64; ++i) {
    values[i] = i % 3 == 0 ? 0.0f : std::sin(static_cast<float>(i)) * (i < 32 ? 1e-3f : 100.0f);
  }
  std::vector<std::byte> blocks(3 * 34);
  quantize(q8, values, blocks);
  std::vector<float> back(96, 1.0f);
  dequantize(q8, blocks, back);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] == 0.0f) {
      EXPECT_EQ(back[i], 0.0f) << i;
    }
    const float largest = i < 32 ? 1e-3f : i < 64 ? 100.0f : 0.0f;
    EXPECT_NEAR(back[i], values[i], largest * (0.5f / 127.0f + 1e-3f)) << i;
  }
}

TEST(GgufQuantize, SixteenBitTypesRoundAsTheDTypeDoes) {
  const std::vector<float> values = {1.0f, -0.0f, 1.0009765625f, 3.0e-5f};
  for (const GgmlType name : {GgmlType::kF32, GgmlType::kF16, GgmlType::kBF16}) {
    const GgmlTypeTraits& type = *writable_ggml_type(name);
    std::vector<std::byte> blocks(values.size() * static_cast<std::size_t>(type.block_bytes));
    quantize(type, values, blocks);
    std::vector<float> back(values.size());
    dequantize(type, blocks, back);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float expected = type.type == GgmlType::kF16    ? f16_to_f32(f32_to_f16(values[i]))
                             : type.type == GgmlType::kBF16 ? bf16_to_f32(f32_to_bf16(values[i]))
                                                            : values[i];
      EXPECT_EQ(back[i], expected) << type.name << " " << i;
    }
  }
}

}  // namespace
}  // namespace swiftprune
