#include "swiftprune/sparse/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "sparse/weights.h"
#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing_sparse::random_block_weight;
using testing_sparse::random_nm_weight;
using testing_sparse::random_weight;
using testing_sparse::TestWeight;

TEST(Pack, LosslessKindsGiveTheSameBits) {
  for (const auto& [rows, cols] :
       {std::pair<std::int64_t, std::int64_t>{1, 1}, {16, 2}, {17, 33}, {40, 48}}) {
    for (const double sparsity : {0.0, 0.5, 1.0}) {
      TestWeight w = random_weight(rows, cols, DType::kF16, sparsity);
      w.bits[0] = 0x8000;      // -0 is a weight
      w.bits.back() = 0x7e01;  // NaN with a payload
      for (const FormatSize& size : formats_for(w.view(), Quantize::kNone)) {
        const PackedTensor packed = pack(w.view(), size.format);
        EXPECT_EQ(unpack(packed), w.bits) << name_of(size.format.kind);
        EXPECT_EQ(std::ssize(packed.bytes()), size.num_bytes) << name_of(size.format.kind);
        EXPECT_EQ(unpack(PackedTensor::parse(packed.bytes(), "w", nullptr)), w.bits);
      }
    }
  }
}

TEST(Pack, NmKeepsGroupsWithFewerWeights) {
  for (const auto& [n, m] : {std::pair{2, 4}, {1, 4}, {4, 8}, {3, 16}}) {
    const TestWeight w = random_nm_weight(18, 3 * m, DType::kBF16, n, m);
    EXPECT_EQ(unpack(pack(w.view(), {PackedKind::kNm16, n, m})), w.bits) << n << ":" << m;
  }
}

// docs/formats.md's example: two rows of eight columns.
TEST(Pack, BitmapBytesByHand) {
  TestWeight w{std::vector<std::uint16_t>(16), 2, 8, DType::kBF16};
  w.bits = {0, 0x3f80, 0, 0, 0, 0, 0x4000, 0, /**/ 0x4040, 0x4080, 0, 0, 0, 0, 0, 0};
  const PackedTensor packed = pack(w.view(), {PackedKind::kBitmap16});
  const auto* masks = static_cast<const std::uint32_t*>(packed.masks());
  // Bits 0 and 1 are row 0's pair, bits 2 and 3 row 1's.
  EXPECT_THAT(std::vector<std::uint32_t>(masks, masks + 4), ElementsAre(0b1110, 0, 0, 0b0001));
  const auto* values = static_cast<const std::uint16_t*>(packed.values());
  EXPECT_THAT(std::vector<std::uint16_t>(values, values + 4), ElementsAre(0x3f80, 0x4040, 0x4080, 0x4000));
  EXPECT_THAT(std::vector<std::uint64_t>(packed.offsets(), packed.offsets() + 2), ElementsAre(0, 4));
  EXPECT_DOUBLE_EQ(packed.density(), 0.25);
}

TEST(Pack, SmallestFormatFollowsThePattern) {
  const auto chosen = [](const TestWeight& w, Quantize quantize = Quantize::kNone) {
    return formats_for(w.view(), quantize).front().format;
  };
  EXPECT_EQ(chosen(random_weight(128, 256, DType::kBF16, 0.0)).kind, PackedKind::kDense16);
  EXPECT_EQ(chosen(random_weight(128, 256, DType::kBF16, 0.02)).kind, PackedKind::kDense16);
  EXPECT_EQ(chosen(random_weight(128, 256, DType::kBF16, 0.5)).kind, PackedKind::kBitmap16);
  EXPECT_EQ(chosen(random_block_weight(128, 256, DType::kBF16, 0.5)).kind, PackedKind::kBlock16);
  const PackFormat two_of_four{PackedKind::kNm16, 2, 4};
  EXPECT_EQ(chosen(random_nm_weight(128, 256, DType::kBF16, 2, 4, 0.0)), two_of_four);
  // A few zeros more make the bitmap a little smaller, not enough to matter; many do.
  EXPECT_EQ(chosen(random_nm_weight(128, 256, DType::kBF16, 2, 4, 0.005)), two_of_four);
  EXPECT_EQ(chosen(random_nm_weight(128, 256, DType::kBF16, 2, 4, 0.2)).kind, PackedKind::kBitmap16);
  EXPECT_EQ(chosen(random_nm_weight(128, 256, DType::kBF16, 4, 8, 0.0)).kind, PackedKind::kBitmap16);
  EXPECT_EQ(chosen(random_weight(128, 256, DType::kBF16, 0.0), Quantize::kInt8).kind, PackedKind::kDenseInt8);
  EXPECT_EQ(chosen(random_weight(128, 256, DType::kBF16, 0.5), Quantize::kInt8).kind,
            PackedKind::kBitmapInt8);
}

TEST(Pack, HalfTheWeightsAreUnder057OfDense) {
  const TestWeight w = random_weight(4096, 1024, DType::kBF16, 0.5);
  EXPECT_LE(static_cast<double>(
                pack(w.view(), formats_for(w.view(), Quantize::kNone).front().format).bytes().size()),
            0.57 * 2 * 4096 * 1024);
}

// Weights that went through a kind of 8 bits: within half of step(|w|, the row's scale), zeros stay, and the
// row's largest weight is `largest_code`.
template <class Step>
void expect_rounding(const TestWeight& w, PackedKind kind, float largest_code, const Step& step) {
  const PackedTensor packed = pack(w.view(), {kind});
  const Matrix back = unpack_f32(packed);
  for (std::int64_t r = 0; r < w.rows; ++r) {
    float largest = 0.0f;
    for (std::int64_t c = 0; c < w.cols; ++c) {
      const float exact = bf16_to_f32(w.bits[static_cast<std::size_t>(r * w.cols + c)]);
      largest = std::max(largest, std::abs(exact));
      EXPECT_LE(std::abs(back.at(r, c) - exact), step(std::abs(exact), packed.scales()[r]) * 0.5001f);
      if (exact == 0.0f) {
        EXPECT_EQ(back.at(r, c), 0.0f);
      }
    }
    EXPECT_FLOAT_EQ(packed.scales()[r], largest / largest_code);
  }
}

TEST(Pack, Int8RoundsToHalfAStep) {
  const TestWeight w = random_weight(33, 100, DType::kBF16, 0.4);
  for (const PackedKind kind : {PackedKind::kDenseInt8, PackedKind::kBitmapInt8}) {
    expect_rounding(w, kind, 127.0f, [](float, float scale) { return scale; });
  }
}

// Three bits of mantissa, and below 2^-6 steps of 2^-9.
TEST(Pack, Fp8RoundsToHalfAStep) {
  const TestWeight w = random_weight(33, 100, DType::kBF16, 0.4);
  for (const PackedKind kind : {PackedKind::kDenseFp8, PackedKind::kBitmapFp8}) {
    expect_rounding(w, kind, 448.0f,
                    [](float size, float scale) { return std::max(size / 8.0f, scale / 512.0f); });
  }
  EXPECT_EQ(formats_for(w.view(), Quantize::kFp8).front().format.kind, PackedKind::kBitmapFp8);
  EXPECT_EQ(
      formats_for(random_weight(128, 256, DType::kBF16, 0.0).view(), Quantize::kFp8).front().format.kind,
      PackedKind::kDenseFp8);
}

TEST(Pack, RefusesWhatDoesNotFit) {
  const auto message = [](const TestWeight& w, const PackFormat& format) -> std::string {
    try {
      pack(w.view(), format);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
      return error.what();
    }
    return "";
  };
  const TestWeight dense = random_weight(16, 16, DType::kBF16, 0.0);
  EXPECT_THAT(message(dense, {PackedKind::kNm16, 2, 4}), HasSubstr("at most 2 of 4"));
  EXPECT_THAT(message(random_weight(4, 6, DType::kBF16, 1.0), {PackedKind::kNm16, 2, 4}), HasSubstr("2:4"));
  EXPECT_THAT(message(random_weight(4, 6, DType::kBF16, 1.0), {PackedKind::kNm16, 2, 6}), HasSubstr("2:6"));
  TestWeight infinite = dense;
  infinite.bits[3] = f32_to_bf16(INFINITY);
  EXPECT_THAT(message(infinite, {PackedKind::kBitmapInt8}), HasSubstr("int8 needs finite"));
  EXPECT_THAT(message(infinite, {PackedKind::kDenseFp8}), HasSubstr("fp8 needs finite"));
  EXPECT_THAT(message(random_weight(1, 65537, DType::kBF16, 0.0), {PackedKind::kDenseInt8}),
              HasSubstr("65536"));
}

}  // namespace
}  // namespace swiftprune
