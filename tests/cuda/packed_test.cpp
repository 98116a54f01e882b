// Products with packed weights on the GPU, and their expansion, against the plain loops over the unpacked
// weight.
#include <algorithm>

#include "cuda/gpu.h"
#include "sparse/weights.h"
#include "swiftprune/cuda/sparse/packed_kernels.h"
#include "swiftprune/cuda/sparse/packed_product.h"
#include "swiftprune/cuda/sparse/packed_weight.h"
#include "swiftprune/cuda/sparse/structured.h"
#include "swiftprune/sparse/linear.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace swiftprune {
namespace {

using cuda::view_of;
using test::relative_error;
using test::rounded;
using testing::random_matrix;
using testing_sparse::random_block_weight;
using testing_sparse::random_nm_weight;
using testing_sparse::random_weight;
using testing_sparse::TestWeight;

constexpr PackFormat kBitmap{.kind = PackedKind::kBitmap16};
constexpr PackFormat kTwoFour{.kind = PackedKind::kNm16, .group_n = 2, .group_m = 4};

double rounding(DType dtype) { return dtype == DType::kF32 ? 2e-5 : dtype == DType::kF16 ? 1e-3 : 6e-3; }

class CudaPackedTest : public test::GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (memory_) products_ = std::make_unique<cuda::Products>(*memory_, *stream_);
  }

  // linear() of the parts' rows one after another against the reference of each.
  void expect_products(const std::vector<PackedTensor>& parts, std::int64_t tokens, DType y_dtype) {
    expect_products(parts, parts.front().shape().dtype, tokens, y_dtype);
  }
  void expect_products(const std::vector<PackedTensor>& parts, DType dtype, std::int64_t tokens,
                       DType y_dtype) {
    expect_products(cuda::DevicePacked(*memory_, parts, dtype, *stream_), parts, dtype, tokens, y_dtype);
  }
  void expect_products(const cuda::DevicePacked& weight, const std::vector<PackedTensor>& parts, DType dtype,
                       std::int64_t tokens, DType y_dtype) {
    const std::int64_t cols = parts.front().cols();
    std::int64_t rows = 0;
    for (const PackedTensor& part : parts) rows += part.rows();
    ASSERT_EQ(weight.rows(), rows);
    const Matrix x = rounded(random_matrix(tokens, cols, 1), dtype);
    const Matrix bias = rounded(random_matrix(1, rows, 2), y_dtype);
    Matrix expected(tokens, rows);
    std::int64_t first = 0;
    for (const PackedTensor& part : parts) {
      reference_linear(
          part, x.view(),
          bias.values().subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(part.rows())),
          expected.view().col_block(first, part.rows()));
      first += part.rows();
    }
    const auto dx = upload_as(x, dtype);
    const auto db = upload_as(bias, y_dtype);
    const auto y = poisoned(tokens * rows * size_of(y_dtype));
    const auto scratch = poisoned(2 * rows * cols);
    const auto run = [&](const void* bias_data, bool accumulate) {
      weight.linear(*products_, view_of(dx.data(), dtype, tokens, cols), bias_data,
                    view_of(y.data(), y_dtype, tokens, rows), accumulate, {scratch.data(), scratch.bytes()},
                    *stream_);
      return download_as(y, y_dtype, tokens, rows);
    };
    const auto name = [&] {
      return fmt::format("{} {} [{}, {}], {} tokens", name_of(parts.front().kind()), name_of(dtype), rows,
                         cols, tokens);
    };
    // Weights on a grid are exact for a few tokens, and rounded where they are expanded.
    const bool expanded = is_grid(parts.front().kind()) && tokens > 96;
    const double tolerance = expanded ? rounding(dtype) : rounding(y_dtype);
    EXPECT_LE(relative_error(run(db.data(), false).view(), expected.view()), tolerance) << name();
    if (y_dtype != DType::kF32) return;
    const Matrix once = run(nullptr, true);  // y + x Wᵀ = 2 x Wᵀ + bias
    Matrix twice(tokens, rows);
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t o = 0; o < rows; ++o) {
        twice.at(t, o) = 2.0f * expected.at(t, o) - bias.at(0, o);
      }
    }
    EXPECT_LE(relative_error(once.view(), twice.view()), 2 * tolerance) << name();
  }

  cuda::DevicePacked as_entries(const std::vector<PackedTensor>& parts) {
    return cuda::DevicePacked(*memory_, parts, parts.front().shape().dtype, *stream_)
        .as_entries(*memory_, *stream_);
  }
  void expect_expansion(const std::vector<PackedTensor>& parts) {
    expect_expansion(cuda::DevicePacked(*memory_, parts, parts.front().shape().dtype, *stream_), parts);
  }
  void expect_expansion(const cuda::DevicePacked& weight, const std::vector<PackedTensor>& parts) {
    const auto dense = poisoned(2 * weight.rows() * weight.cols());
    weight.expand(dense.data(), *stream_);
    std::vector<std::uint16_t> expected;
    for (const PackedTensor& part : parts) {
      const auto bits = unpack(part);
      expected.insert(expected.end(), bits.begin(), bits.end());
    }
    EXPECT_EQ(download<std::uint16_t>(dense), expected)
        << name_of(parts.front().kind()) << " " << weight.rows() << " " << weight.cols();
  }

  std::unique_ptr<cuda::Products> products_;
};

// What torch's tensors are multiplied with: a stream of theirs, memory for expansion that is shared and grows.
TEST_F(CudaPackedTest, ProductsOfOtherLibrariesTensors) {
  const std::vector<PackedTensor> weights = {pack(random_weight(48, 96, DType::kBF16, 0.5).view(), kBitmap),
                                             pack(random_weight(160, 200, DType::kF16, 0.7).view(), kBitmap)};
  for (const PackedTensor& weight : weights) {
    const auto product = cuda::make_packed_product(weight, 0, DType::kBF16);
    const DType dtype = weight.shape().dtype;
    EXPECT_EQ(product->dtype(), dtype);
    EXPECT_GT(product->bytes(), 0u);
    for (const std::int64_t tokens : {1, 16, 40, 300}) {
      const Matrix x = rounded(random_matrix(tokens, weight.cols(), 1), dtype);
      const Matrix bias = random_matrix(1, weight.rows(), 2);
      Matrix expected(tokens, weight.rows());
      reference_linear(weight, x.view(), bias.values(), expected.view());
      const auto dx = upload_as(x, dtype);
      const auto db = upload_as(bias, DType::kF32);
      const auto y = poisoned(tokens * weight.rows() * size_of(DType::kF32));
      product->multiply(dx.data(), tokens, db.data(), y.data(), DType::kF32,
                        static_cast<cudaStream_t>(*stream_));
      EXPECT_LE(relative_error(download_as(y, DType::kF32, tokens, weight.rows()).view(), expected.view()),
                rounding(DType::kF32))
          << tokens;
    }
  }
}

TEST_F(CudaPackedTest, BitmapOfAnyShapeAndDensity) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const auto& [rows, cols] : {std::pair{1, 1},
                                     {15, 2},
                                     {16, 63},
                                     {17, 64},
                                     {40, 65},
                                     {33, 129},
                                     {272, 1000},
                                     {64, 4096},
                                     {16, 8200}}) {
      for (const double sparsity : {0.0, 0.5, 0.9, 1.0}) {
        const PackedTensor packed = pack(random_weight(rows, cols, dtype, sparsity).view(), kBitmap);
        for (const std::int64_t tokens : {1, 3, 8, 9, 16}) {
          expect_products({packed}, tokens, tokens % 2 == 0 ? dtype : DType::kF32);
        }
        expect_expansion({packed});
      }
    }
  }
}

// Products and expansion of entries made of the parts' bitmaps.
TEST_F(CudaPackedTest, EntriesOfAnyShapeAndDensity) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const auto& [rows, cols] : {std::pair{1, 1},
                                     {15, 2},
                                     {16, 63},
                                     {17, 64},
                                     {40, 65},
                                     {33, 129},
                                     {272, 1000},
                                     {64, 4096},
                                     {2500, 136},
                                     {16, 8200}}) {
      for (const double sparsity : {0.0, 0.3, 0.5, 0.9, 0.99, 1.0}) {
        const PackedTensor packed = pack(random_weight(rows, cols, dtype, sparsity).view(), kBitmap);
        const auto weight = as_entries({packed});
        for (const std::int64_t tokens : {1, 2, 3, 4, 7, 16})
          expect_products(weight, {packed}, dtype, tokens, tokens % 2 == 0 ? dtype : DType::kF32);
        expect_expansion(weight, {packed});
      }
    }
  }
}

// Empty rows beside full ones, single weights at the ends of rows, weights as far apart as sixteen steps reach, rows of
// all densities, and -0 and NaN, which count as weights.
TEST_F(CudaPackedTest, EntriesOfUnevenRows) {
  for (const std::int64_t rows : {16, 61, 1100}) {
    constexpr std::int64_t kCols = 777;
    TestWeight weight = random_weight(rows, kCols, DType::kBF16, 0.0);
    for (std::int64_t r = 0; r < rows; ++r) {
      std::uint16_t* row = weight.bits.data() + r * kCols;
      for (std::int64_t c = 0; c < kCols; ++c) {
        const bool kept = r % 7 == 0   ? false
                          : r % 7 == 1 ? true
                          : r % 7 == 2 ? c == 0
                          : r % 7 == 3 ? c == kCols - 1
                          : r % 7 == 4 ? (r % 2 == 0 ? c > 700 : c > 0 && c % 112 == 0)
                          : r % 7 == 5 ? c < 30
                                       : (r * 31 + c * c) % (r % 90 + 2) == 0;
        if (!kept) row[c] = 0;
      }
    }
    weight.bits[static_cast<std::size_t>(kCols + 5)] = 0x8000;
    const PackedTensor packed = pack(weight.view(), kBitmap);
    for (const std::int64_t tokens : {1, 2, 4})
      expect_products(as_entries({packed}), {packed}, DType::kBF16, tokens, DType::kF32);
    weight.bits[static_cast<std::size_t>(kCols + 9)] = 0x7fc1;
    const PackedTensor with_nan = pack(weight.view(), kBitmap);
    expect_expansion(as_entries({with_nan}), {with_nan});
  }
}

TEST_F(CudaPackedTest, EntriesOfManyRowsAndParts) {
  const auto part = [](std::int64_t rows, double sparsity) {
    return pack(random_weight(rows, 96, DType::kBF16, sparsity, static_cast<std::uint32_t>(rows)).view(),
                kBitmap);
  };
  const std::vector<PackedTensor> parts = {part(7, 0.5), part(48, 0.8), part(16, 0.2)};
  for (const std::int64_t tokens : {1, 4, 12})
    expect_products(as_entries(parts), parts, DType::kBF16, tokens, DType::kF32);
  expect_expansion(as_entries(parts), parts);
  // More panels than one round of blocks of threads takes.
  const PackedTensor tall = pack(random_weight(44000, 70, DType::kBF16, 0.5).view(), kBitmap);
  expect_products(as_entries({tall}), {tall}, DType::kBF16, 1, DType::kBF16);
  expect_products(as_entries({tall}), {tall}, DType::kBF16, 3, DType::kF32);
  expect_expansion(as_entries({tall}), {tall});
  const PackedTensor fp8 =
      pack(random_weight(16, 96, DType::kBF16, 0.5).view(), {.kind = PackedKind::kBitmapFp8});
  EXPECT_FALSE(cuda::DevicePacked(*memory_, std::span(&fp8, 1), DType::kBF16, *stream_).can_be_entries());
}

TEST_F(CudaPackedTest, EightBitBitmapOfAnyShapeAndDensity) {
  for (const PackedKind kind : {PackedKind::kBitmapInt8, PackedKind::kBitmapFp8}) {
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      for (const auto& [rows, cols] :
           {std::pair{1, 1}, {15, 2}, {16, 63}, {17, 64}, {40, 67}, {33, 129}, {272, 1000}, {16, 4096}}) {
        for (const double sparsity : {0.0, 0.5, 0.9, 1.0}) {
          const PackedTensor packed = pack(random_weight(rows, cols, dtype, sparsity).view(), {.kind = kind});
          for (const std::int64_t tokens : {1, 8, 9, 16, 40})
            expect_products({packed}, tokens, tokens % 2 == 0 ? dtype : DType::kF32);
          expect_expansion({packed});
        }
      }
    }
  }
}

TEST_F(CudaPackedTest, TwoFourOfAnyShape) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const auto& [rows, cols] :
         {std::pair{1, 4}, {16, 60}, {17, 64}, {40, 68}, {33, 128}, {272, 1000}, {64, 4096}, {16, 8200}}) {
      const PackedTensor packed = pack(random_nm_weight(rows, cols, dtype, 2, 4).view(), kTwoFour);
      for (const std::int64_t tokens : {1, 3, 8, 9, 16}) {
        expect_products({packed}, tokens, tokens % 2 == 0 ? dtype : DType::kF32);
      }
      expect_expansion({packed});
    }
  }
}

// More tokens than one launch for few of them takes.
TEST_F(CudaPackedTest, Batches) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const auto& [rows, cols] :
         {std::pair{1, 4}, {16, 60}, {17, 64}, {130, 132}, {272, 1000}, {128, 4096}, {700, 192}}) {
      const PackedTensor two_four = pack(random_nm_weight(rows, cols, dtype, 2, 4).view(), kTwoFour);
      for (const std::int64_t tokens : {5, 8, 11, 16, 17, 31, 33, 64, 65})
        expect_products({two_four}, tokens, tokens % 2 == 0 ? dtype : DType::kF32);
      for (const double sparsity : {0.0, 0.5, 1.0}) {
        const PackedTensor bitmap = pack(random_weight(rows, cols, dtype, sparsity).view(), kBitmap);
        for (const std::int64_t tokens : {17, 24, 31, 32, 33})
          expect_products({bitmap}, tokens, tokens % 2 == 0 ? dtype : DType::kF32);
      }
      const PackedTensor fp8 =
          pack(random_weight(rows, cols, dtype, 0.5).view(), {.kind = PackedKind::kBitmapFp8});
      expect_products({fp8}, 20, DType::kF32);
    }
  }
}

// Enough panels that blocks of threads have few warps.
TEST_F(CudaPackedTest, ManyPanels) {
  for (const PackFormat& format : {kBitmap, kTwoFour}) {
    const PackedTensor packed = pack(random_nm_weight(44000, 192, DType::kBF16, 2, 4).view(), format);
    expect_products({packed}, 1, DType::kBF16);
    expect_products({packed}, 16, DType::kF32);
    const PackedTensor odd = pack(random_nm_weight(2050, 192, DType::kBF16, 2, 4).view(), format);
    for (const std::int64_t tokens : {9, 13, 16}) expect_products({odd}, tokens, DType::kF32);
  }
}

TEST_F(CudaPackedTest, PartsFollowEachOther) {
  const auto bitmap = [](std::int64_t rows) {
    return pack(random_weight(rows, 96, DType::kBF16, 0.5, static_cast<std::uint32_t>(rows)).view(), kBitmap);
  };
  const auto two_four = [](std::int64_t rows) {
    return pack(random_nm_weight(rows, 96, DType::kBF16, 2, 4).view(), kTwoFour);
  };
  const auto fp8 = [](std::int64_t rows) {
    return pack(random_weight(rows, 96, DType::kBF16, 0.5).view(), {.kind = PackedKind::kBitmapFp8});
  };
  for (const auto& parts :
       {std::vector{bitmap(32), bitmap(16), bitmap(7)}, std::vector{bitmap(7), bitmap(9), bitmap(48)},
        std::vector{two_four(48), two_four(16), two_four(5)},
        std::vector{two_four(16), bitmap(16), two_four(3)}, std::vector{fp8(32), fp8(9)},
        std::vector{bitmap(16), fp8(16), bitmap(16)}}) {
    const bool exact = std::none_of(parts.begin(), parts.end(),
                                    [](const PackedTensor& part) { return is_8bit(part.kind()); });
    for (const std::int64_t tokens : {1, 12}) expect_products(parts, tokens, DType::kF32);
    expect_products(parts, 40, exact ? DType::kF32 : DType::kBF16);  // expanded, bytes are rounded to 16 bits
    expect_expansion(parts);
  }
}

// Kinds without a kernel of their own, and more tokens than a decode kernel takes.
TEST_F(CudaPackedTest, EveryKind) {
  const std::vector<PackedTensor> kinds = {
      pack(random_weight(40, 128, DType::kBF16, 0.1).view(), {.kind = PackedKind::kDense16}),
      pack(random_weight(40, 128, DType::kBF16, 0.1).view(), {.kind = PackedKind::kDenseInt8}),
      pack(random_weight(40, 128, DType::kBF16, 0.1).view(), {.kind = PackedKind::kDenseFp8}),
      pack(random_weight(40, 128, DType::kBF16, 0.6).view(), {.kind = PackedKind::kBitmapInt8}),
      pack(random_nm_weight(40, 128, DType::kBF16, 4, 8).view(),
           {.kind = PackedKind::kNm16, .group_n = 4, .group_m = 8}),
      pack(random_block_weight(48, 128, DType::kBF16, 0.5).view(), {.kind = PackedKind::kBlock16}),
      pack(random_weight(40, 128, DType::kBF16, 0.5).view(), kBitmap),
      pack(random_nm_weight(40, 128, DType::kBF16, 2, 4).view(), kTwoFour)};
  for (const PackedTensor& packed : kinds) {
    // dense 8-bit kinds are rounded to 16 bits
    for (const std::int64_t tokens : {2, 17, 64}) expect_products({packed}, tokens, DType::kBF16);
    expect_expansion({packed});
  }
}

TEST_F(CudaPackedTest, GridsOfAnyShape) {
  for (const QuantGrid& grid : {QuantGrid{4, 64, false}, QuantGrid{4, 32, true}, QuantGrid{4, 128, true},
                                QuantGrid{4, 0, false}, QuantGrid{3, 32, false}, QuantGrid{3, 0, true}}) {
    for (const auto& [rows, cols] :
         {std::pair{1, 128}, {16, 384}, {17, 640}, {272, 1024}, {40, 96}, {33, 65}, {15, 2}, {64, 4096}}) {
      if (grid.group != 0 && cols % grid.group != 0) continue;
      // dense, as a bitmap, and N of 4
      for (const auto& [zeros, n] : {std::pair{0.0, 4}, {0.5, 4}, {0.1, 3}, {0.1, 2}, {0.2, 1}}) {
        const QuantizedWeight weight = testing_sparse::random_grid_weight(rows, cols, grid, zeros, n);
        const PackedTensor packed = pack_smallest(weight);
        for (const DType dtype : {DType::kBF16, DType::kF16}) {
          for (const std::int64_t tokens : {1, 3, 8, 9, 16, 40, 100})
            expect_products({packed}, dtype, tokens, tokens % 2 == 0 ? dtype : DType::kF32);
        }
      }
    }
  }
}

// Three linears of one input, each on a grid of its own or none; and codes of 8 bits, which become dense.
TEST_F(CudaPackedTest, GridsBesideOthers) {
  const auto grid = [](std::int64_t rows, const QuantGrid& of, int n = 4) {
    const QuantizedWeight weight = testing_sparse::random_grid_weight(rows, 256, of, 0.3, n);
    return pack_smallest(weight);
  };
  const QuantGrid four{4, 64, false}, three{3, 32, true}, eight{8, 128, false};
  const std::vector<PackedTensor> parts = {grid(48, four),
                                           grid(16, four),
                                           grid(33, three),
                                           grid(20, eight),
                                           grid(32, four, 2),
                                           grid(17, four, 2),
                                           pack(random_weight(24, 256, DType::kBF16, 0.5).view(), kBitmap)};
  for (const std::int64_t tokens : {1, 16, 33, 97})
    expect_products(parts, DType::kBF16, tokens, DType::kBF16);
}

TEST_F(CudaPackedTest, GridsExpandToTheirRoundedValues) {
  for (const auto& [zeros, n] : {std::pair{0.5, 4}, {0.2, 2}}) {
    const QuantizedWeight weight = testing_sparse::random_grid_weight(50, 320, {4, 32, true}, zeros, n);
    const PackedTensor packed = pack_smallest(weight);
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      const cuda::DevicePacked on_device(*memory_, std::span(&packed, 1), dtype, *stream_);
      EXPECT_LT(on_device.bytes(), std::uint64_t{64 * 320} * 3 / 4);
      const auto dense = poisoned(2 * 50 * 320);
      on_device.expand(dense.data(), *stream_);
      const Matrix values = unpack_f32(packed);
      std::vector<std::uint16_t> expected(50 * 320);
      convert_from_f32(values.values(), dtype, std::as_writable_bytes(std::span(expected)));
      EXPECT_EQ(download<std::uint16_t>(dense), expected);
    }
  }
}

TEST_F(CudaPackedTest, TwoOfFourTakeLessThanAllCodes) {
  const QuantGrid grid{4, 64, false};
  const auto bytes = [&](const PackedTensor& packed) {
    expect_products({packed}, DType::kBF16, 5, DType::kF32);
    return static_cast<double>(
        cuda::DevicePacked(*memory_, std::span(&packed, 1), DType::kBF16, *stream_).bytes());
  };
  const QuantizedWeight two = testing_sparse::random_grid_weight(64, 1024, grid, 0.0, 2);
  const double all = bytes(pack(two, {PackedKind::kDenseGrid}));
  EXPECT_NEAR(bytes(pack(two, {PackedKind::kNmGrid, 2, 4})) / all, 3.25 / 4.25, 0.01);
  EXPECT_NEAR(bytes(pack(two, {PackedKind::kBitmapGrid})) / all, 3.25 / 4.25, 0.01);
  const QuantizedWeight three = testing_sparse::random_grid_weight(64, 1024, grid, 0.0, 3);
  EXPECT_EQ(bytes(pack(three, {PackedKind::kBitmapGrid})), all);
}

TEST_F(CudaPackedTest, DenseWeightsOfFewTokens) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const auto& [rows, cols] : {std::pair{1, 64}, {17, 128}, {272, 1024}, {100, 4096}, {4099, 320}}) {
      const TestWeight weight = random_weight(rows, cols, dtype, 0.0);
      const PackedTensor dense = pack(weight.view(), {.kind = PackedKind::kDense16});
      for (const std::int64_t tokens : {1, 3, 8, 9, 16})
        expect_products({dense}, tokens, tokens % 2 == 0 ? dtype : DType::kF32);
    }
  }
}

TEST_F(CudaPackedTest, FewTokensOfOddShapesAreTheLibrarys) {
  const auto bytes = poisoned(64 * 1024);
  const auto takes = [&](std::int64_t tokens, std::int64_t cols, std::int64_t stride, DType dtype) {
    cuda::CompactArgs args{.dtype = dtype,
                           .rows = 0,  // nothing is written
                           .cols = cols,
                           .x = bytes.data(),
                           .x_stride = cols,
                           .tokens = tokens,
                           .y = bytes.data(),
                           .y_dtype = DType::kF32};
    return cuda::multiply_few(bytes.data(), stride, args, *stream_);
  };
  EXPECT_TRUE(takes(8, 64, 64, DType::kBF16));
  EXPECT_FALSE(takes(9, 64, 64, DType::kBF16));
  EXPECT_FALSE(takes(8, 72, 72, DType::kBF16));
  EXPECT_FALSE(takes(8, 64, 65, DType::kBF16));
  EXPECT_FALSE(takes(8, 64, 64, DType::kF32));
}

TEST_F(CudaPackedTest, EqualRunsGiveEqualBits) {
  const PackedTensor packed = pack(random_weight(512, 4096, DType::kBF16, 0.5).view(), kBitmap);
  cuda::DevicePacked weight(*memory_, std::span(&packed, 1), DType::kBF16, *stream_);
  const auto x = upload_as(rounded(random_matrix(3, 4096, 1), DType::kBF16), DType::kBF16);
  std::vector<std::vector<float>> results;
  for (int i = 0; i < 2; ++i) {
    const auto y = poisoned(3 * 512 * 4);
    weight.linear(*products_, view_of(x.data(), DType::kBF16, 3, 4096), nullptr,
                  view_of(y.data(), DType::kF32, 3, 512), false, {}, *stream_);
    results.push_back(download<float>(y));
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST_F(CudaPackedTest, StructuredProductsOfTheLibrary) {
  if (!test::have(cuda::StructuredProducts::why_not(), "SWIFTPRUNE_REQUIRE_CUSPARSELT")) return;
  cuda::StructuredProducts structured(*memory_, *stream_);
  constexpr DType dtype = DType::kBF16;
  for (const auto& [rows, cols, tokens] : {std::array{64, 128, 8}, {256, 512, 136}, {1024, 768, 512}}) {
    const PackedTensor packed = pack(random_nm_weight(rows, cols, dtype, 2, 4).view(), kTwoFour);
    cuda::DevicePacked weight(*memory_, std::span(&packed, 1), DType::kBF16, *stream_);
    const auto dense = poisoned(2 * rows * cols);
    weight.expand(dense.data(), *stream_);
    const auto compressed = structured.compress(view_of(dense.data(), dtype, rows, cols));
    const Matrix x = rounded(random_matrix(tokens, cols, 1), dtype);
    Matrix expected(tokens, rows);
    reference_linear(packed, x.view(), {}, expected.view());
    const auto dx = upload_as(x, dtype);
    const auto y = poisoned(tokens * rows * 2);
    const auto algorithm = structured.search(compressed, view_of(dx.data(), dtype, tokens, cols),
                                             view_of(y.data(), dtype, tokens, rows));
    for (int i = 0; i < 2; ++i) {  // a new plan, and the one that was kept
      cuda::check(cudaMemsetAsync(y.data(), 0xff, y.bytes(), *stream_));
      ASSERT_TRUE(structured.linear(compressed, view_of(dx.data(), dtype, tokens, cols),
                                    view_of(y.data(), dtype, tokens, rows), algorithm));
      EXPECT_LE(relative_error(download_as(y, dtype, tokens, rows).view(), expected.view()), rounding(dtype));
    }
  }
}

}  // namespace
}  // namespace swiftprune
