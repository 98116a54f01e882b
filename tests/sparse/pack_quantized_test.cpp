#include "swiftprune/sparse/pack_quantized.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "sparse/weights.h"
#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

using testing_sparse::random_grid_weight;

void expect_same(const QuantizedWeight& a, const QuantizedWeight& b) {
  EXPECT_EQ(a.grid, b.grid);
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.cols, b.cols);
  EXPECT_EQ(a.codes, b.codes);
  EXPECT_EQ(a.scales, b.scales);
  EXPECT_EQ(a.zeros, b.zeros);
}

// Every format gives back what was packed, also after its bytes were read as a file's.
TEST(PackQuantized, ComesBackExactly) {
  for (const int bits : kQuantBits) {
    for (const bool asymmetric : {false, true}) {
      for (const std::int64_t group : {0, 32, 64, 128}) {
        for (const int n : {1, 2, 3, 4}) {
          for (const auto& [rows, cols] : {std::pair{1, 128}, {16, 256}, {37, 384}, {50, 101}}) {
            if (group != 0 && cols % group != 0) continue;
            const QuantizedWeight w = random_grid_weight(rows, cols, {bits, group, asymmetric}, 0.3, n);
            for (const FormatSize& size : formats_for(w)) {
              const PackedTensor packed = pack(w, size.format);
              SCOPED_TRACE(describe(packed.shape()));
              EXPECT_EQ(std::ssize(packed.bytes()), size.num_bytes);
              const PackedTensor read = PackedTensor::parse(packed.bytes(), "w", nullptr);
              expect_same(unpack_quantized(read), w);
              EXPECT_EQ(read.shape().dtype, DType::kF32);
              const Matrix values = unpack_f32(read);
              const Matrix expected = dequantize(w);
              EXPECT_TRUE(std::ranges::equal(values.values(), expected.values()));
            }
          }
        }
      }
    }
  }
}

// 2 rows of 8 inputs in 4 bits, by hand (docs/formats.md): codes of step 0 in the low halves of the bytes, of
// step 1 in the high ones; both streams start at the panel's first byte.
TEST(PackQuantized, BytesOfABitmap) {
  QuantizedWeight w{{4, 0, false}, 2, 8, {}, {f32_to_f16(0.5f), f32_to_f16(0.25f)}, {}};
  w.codes = {8, 1, 8, 2, 8, 8, 15, 8,  //
             9, 8, 8, 8, 8, 3, 8,  8};
  const PackedTensor packed = pack(w, {PackedKind::kBitmapGrid});
  const auto* masks = static_cast<const std::uint64_t*>(packed.masks());
  EXPECT_EQ(masks[0], 0b0001'1010u);
  EXPECT_EQ(masks[1], 0b0010'0100u);
  EXPECT_EQ(packed.offsets()[0], 0u);
  EXPECT_EQ(packed.offsets()[1], 3u);
  const auto* codes = static_cast<const std::uint8_t*>(packed.values());
  EXPECT_EQ(codes[0], 1 | 15 << 4);
  EXPECT_EQ(codes[1], 2 | 3 << 4);
  EXPECT_EQ(codes[2], 9);
  EXPECT_EQ(packed.group_scales()[1], f32_to_f16(0.25f));
  EXPECT_EQ(packed.group_scales()[2], 0);
}

TEST(PackQuantized, SmallestFirst) {
  const auto first = [](double sparsity, int n, int bits) {
    return formats_for(random_grid_weight(256, 512, {bits, 64, false}, sparsity, n)).front().format;
  };
  EXPECT_EQ(first(0.0, 4, 4).kind, PackedKind::kDenseGrid);
  EXPECT_EQ(first(0.1, 4, 4).kind, PackedKind::kDenseGrid);  // a mask of one bit costs more than 10 %
  EXPECT_EQ(first(0.5, 4, 4).kind, PackedKind::kBitmapGrid);
  EXPECT_EQ(first(0.5, 4, 3).kind, PackedKind::kBitmapGrid);
  EXPECT_EQ(first(0.0, 2, 4), (PackFormat{PackedKind::kNmGrid, 2, 4}));
}

// Bits a weight of a large matrix: codes, masks and scales, and nothing else that matters.
// What a plan promises before a weight is there.
TEST(PackQuantized, BytesByTheNumberOfNonzeros) {
  for (const int bits : kQuantBits) {
    for (const double sparsity : {0.0, 0.1, 0.3, 0.5, 0.8, 0.95}) {
      const QuantizedWeight w = random_grid_weight(192, 576, {bits, 64, false}, sparsity);
      double smallest = 1e18;
      for (const FormatSize& size : formats_for(w)) {
        if (size.format.kind != PackedKind::kNmGrid)
          smallest = std::min(smallest, static_cast<double>(size.num_bytes));
      }
      EXPECT_NEAR(grid_bytes(w.grid, w.rows, w.cols, num_nonzero(w)) / smallest, 1.0, 0.01)
          << bits << " " << sparsity;
    }
  }
}

TEST(PackQuantized, Sizes) {
  const auto bits_of = [](const QuantizedWeight& w, const PackFormat& format) {
    return 8.0 * static_cast<double>(pack(w, format).bytes().size()) / static_cast<double>(w.rows * w.cols);
  };
  const QuantizedWeight half = random_grid_weight(512, 2048, {4, 64, false}, 0.5);
  const double density = static_cast<double>(num_nonzero(half)) / (512.0 * 2048.0);
  EXPECT_NEAR(bits_of(half, {PackedKind::kDenseGrid}), 4.25, 0.01);
  EXPECT_NEAR(bits_of(half, {PackedKind::kBitmapGrid}), 1.25 + 4.0 * density, 0.03);
  const QuantizedWeight three = random_grid_weight(512, 2048, {3, 128, true}, 0.0, 2);
  EXPECT_NEAR(bits_of(three, {PackedKind::kDenseGrid}), 3.0 + 20.0 / 128.0, 0.01);
  EXPECT_NEAR(bits_of(three, {PackedKind::kNmGrid, 2, 4}), 2.5 + 20.0 / 128.0, 0.01);
}

TEST(PackQuantized, RefusesWhatAGridCannotHold) {
  const auto message = [](const QuantizedWeight& w, const PackFormat& format) -> std::string {
    try {
      pack(w, format);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  using testing::HasSubstr;
  const QuantizedWeight good = random_grid_weight(20, 64, {3, 32, true}, 0.0);
  EXPECT_EQ(message(good, {PackedKind::kDenseGrid}), "");
  EXPECT_THAT(message(good, {PackedKind::kNmGrid, 2, 4}), HasSubstr("at most 2 of 4"));
  EXPECT_THAT(message(good, {PackedKind::kNmGrid, 2, 8}), HasSubstr("2:8"));
  QuantizedWeight bad = good;
  bad.codes[5] = 8;
  EXPECT_THAT(message(bad, {PackedKind::kDenseGrid}), HasSubstr("above 7"));
  bad = good;
  bad.zeros[1] = 9;
  EXPECT_THAT(message(bad, {PackedKind::kDenseGrid}), HasSubstr("above 7"));
  for (const float scale : {0.0f, -1.0f, INFINITY, NAN}) {
    bad = good;
    bad.scales[3] = f32_to_f16(scale);
    EXPECT_THAT(message(bad, {PackedKind::kBitmapGrid}), HasSubstr("a scale of")) << scale;
  }
}

}  // namespace
}  // namespace swiftprune
