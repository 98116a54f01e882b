#include "swiftprune/sparse/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "sparse/weights.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

using testing_sparse::random_block_weight;
using testing_sparse::random_grid_weight;
using testing_sparse::random_nm_weight;
using testing_sparse::random_weight;
using testing_sparse::TestWeight;

class LinearTest : public ::testing::Test {
 protected:
  void SetUp() override { set_num_threads(1); }
  void TearDown() override { set_num_threads(0); }
};

Matrix random_matrix(std::int64_t rows, std::int64_t cols, std::uint32_t seed) {
  Matrix m(rows, cols);
  std::mt19937 engine(seed);
  std::normal_distribution<float> value;
  for (float& v : m.values()) v = value(engine);
  return m;
}

// Error bound of a row's sum: rounding of x to `x_error` of its largest element, and of the sum to a few
// ulps.
void expect_close(const PackedTensor& packed, ConstMatrixView x, std::span<const float> bias,
                  ConstMatrixView y, double x_error, const std::string& what) {
  const Matrix w = unpack_f32(packed);
  Matrix expected(x.rows, packed.rows());
  reference_linear(packed, x, bias, expected.view());
  for (std::int64_t t = 0; t < x.rows; ++t) {
    double largest = 0.0;
    for (std::int64_t i = 0; i < x.cols; ++i) largest = std::max(largest, std::abs(double{x.at(t, i)}));
    for (std::int64_t o = 0; o < w.rows(); ++o) {
      double products = 0.0, weights = 0.0;
      for (std::int64_t i = 0; i < x.cols; ++i) {
        products += std::abs(double{w.at(o, i)} * double{x.at(t, i)});
        weights += std::abs(double{w.at(o, i)});
      }
      const double tolerance = 1e-6 + 3e-6 * products + x_error * largest * weights;
      ASSERT_NEAR(y.at(t, o), expected.at(t, o), tolerance) << what << ", token " << t << ", row " << o;
    }
  }
}

template <class Weight>
void check_all_batches(const Weight& weight, const PackFormat& format) {
  const Linear linear = [&] {
    if constexpr (std::is_same_v<Weight, TestWeight>)
      return Linear(pack(weight.view(), format));
    else
      return Linear(pack(weight, format));
  }();
  const std::string what = fmt::format("{} {} [{}, {}]", describe(linear.weight().shape()),
                                       name_of(linear.weight().shape().dtype), weight.rows, weight.cols);
  const Matrix bias = random_matrix(1, weight.rows, 7);
  for (const std::int64_t tokens : {0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33}) {
    const Matrix x = random_matrix(tokens, weight.cols + 3, 11);
    const ConstMatrixView part = x.view().col_block(1, weight.cols);  // strided, unaligned
    Matrix y = Matrix::zeros(tokens, weight.rows + 5);
    const MatrixView out = y.view().col_block(2, weight.rows);
    linear.forward(part, bias.values(), out);
    const bool rounds_x = is_int8(format.kind) || is_grid(format.kind);
    const double x_error = rounds_x && tokens <= 16 ? 0.5 / 32639.0 : 0.0;
    expect_close(linear.weight(), part, bias.values(), out, x_error, what);
    for (std::int64_t t = 0; t < tokens; ++t) {  // nothing beside the rows is written
      for (const std::int64_t c : {std::int64_t{0}, std::int64_t{1}, weight.rows + 2, weight.rows + 4}) {
        ASSERT_EQ(y.at(t, c), 0.0f) << what;
      }
    }
    linear.forward(part, {}, out, ComputeType::kBF16);
    // Grids round their weights, too.
    expect_close(linear.weight(), part, {}, out, (is_grid(format.kind) ? 2.0 : 1.0) / 256.0, what + " bf16");
  }
}

// Rows and columns around the panel (16), the pair, the quad, the tile (16) and the chunk (256 columns).
const std::pair<std::int64_t, std::int64_t> kShapes[] = {
    {1, 1}, {15, 2}, {16, 3}, {17, 4}, {31, 15}, {33, 17}, {47, 255}, {64, 256}, {65, 258}, {113, 523}};

TEST_F(LinearTest, DenseAndBitmapMatchReference) {
  for (const auto& [rows, cols] : kShapes) {
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      for (const double sparsity : {0.0, 0.5, 0.95, 1.0}) {
        const TestWeight weight = random_weight(rows, cols, dtype, sparsity);
        for (const PackedKind kind :
             {PackedKind::kDense16, PackedKind::kBitmap16, PackedKind::kDenseInt8, PackedKind::kBitmapInt8,
              PackedKind::kDenseFp8, PackedKind::kBitmapFp8}) {
          if (sparsity > 0.0 && sparsity < 1.0 && rows > 100 && kind == PackedKind::kDense16) continue;
          check_all_batches(weight, {kind});
        }
      }
    }
  }
}

// Light panels: a task takes as many as it may.
TEST_F(LinearTest, ManyPanelsATask) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const TestWeight weight = random_weight(1041, 40, dtype, 0.9);
    for (const PackedKind kind :
         {PackedKind::kDense16, PackedKind::kBitmap16, PackedKind::kDenseInt8, PackedKind::kBitmapInt8,
          PackedKind::kBlock16, PackedKind::kDenseFp8, PackedKind::kBitmapFp8}) {
      check_all_batches(weight, {kind});
    }
  }
}

TEST_F(LinearTest, NmMatchesReference) {
  const std::pair<int, int> kGroups[] = {{2, 4}, {1, 4}, {3, 4}, {4, 8}, {1, 8}, {3, 8}, {2, 16}, {5, 16}};
  for (const auto& [n, m] : kGroups) {
    for (const std::int64_t groups : {1, 3, 16, 33}) {
      for (const DType dtype : {DType::kBF16, DType::kF16}) {
        check_all_batches(random_nm_weight(49, groups * m, dtype, n, m), {PackedKind::kNm16, n, m});
      }
    }
  }
}

TEST_F(LinearTest, GridsMatchReference) {
  const std::pair<std::int64_t, bool> kGroups[] = {
      {0, false}, {0, true}, {32, true}, {64, false}, {128, true}};
  for (const int bits : kQuantBits) {
    for (const auto& [group, asymmetric] : kGroups) {
      const QuantGrid grid{bits, group, asymmetric};
      // An odd number of groups, for rows any width; panels of a call and a ragged one.
      for (const auto& [rows, cols] : {std::pair{17, std::int64_t{384}}, {83, group == 0 ? 295 : 128}}) {
        check_all_batches(random_grid_weight(rows, cols, grid, 0.0), {PackedKind::kDenseGrid});
        for (const double sparsity : {0.5, 0.95}) {
          check_all_batches(random_grid_weight(rows, cols, grid, sparsity), {PackedKind::kBitmapGrid});
        }
        for (const int n : {1, 2, 3}) {
          if (cols % 4 != 0) continue;
          check_all_batches(random_grid_weight(rows, cols, grid, 0.1, n), {PackedKind::kNmGrid, n, 4});
        }
      }
    }
  }
}

TEST_F(LinearTest, BlocksMatchReference) {
  for (const auto& [rows, cols] : kShapes) {
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      for (const double sparsity : {0.0, 0.5, 1.0}) {
        check_all_batches(random_block_weight(rows, cols, dtype, sparsity), {PackedKind::kBlock16});
      }
    }
  }
}

// A model whose zeros are stored and one whose zeros are left out give the same text: not one bit differs.
TEST_F(LinearTest, BitmapGivesTheBitsOfDense) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const TestWeight weight = random_weight(130, 774, dtype, 0.5);
    const Linear dense(pack(weight.view(), {PackedKind::kDense16}));
    const Linear bitmap(pack(weight.view(), {PackedKind::kBitmap16}));
    for (const std::int64_t tokens : {1, 2, 3, 4, 6, 16, 40}) {
      for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
        const Matrix x = random_matrix(tokens, weight.cols, 3);
        Matrix a(tokens, weight.rows), b(tokens, weight.rows);
        dense.forward(x.view(), {}, a.view(), compute);
        bitmap.forward(x.view(), {}, b.view(), compute);
        ASSERT_EQ(0, std::memcmp(a.data(), b.data(), a.values().size_bytes())) << tokens;
      }
    }
  }
}

TEST_F(LinearTest, ThreadsDoNotChangeBits) {
  const TestWeight weight = random_weight(700, 600, DType::kBF16, 0.5);
  for (const PackedKind kind : {PackedKind::kBitmap16, PackedKind::kBitmapInt8}) {
    const Linear linear(pack(weight.view(), {kind}));
    for (const std::int64_t tokens : {1, 4, 20}) {
      const Matrix x = random_matrix(tokens, weight.cols, 5);
      Matrix one(tokens, weight.rows), three(tokens, weight.rows);
      set_num_threads(1);
      linear.forward(x.view(), {}, one.view());
      set_num_threads(3);
      linear.forward(x.view(), {}, three.view());
      ASSERT_EQ(0, std::memcmp(one.data(), three.data(), one.values().size_bytes()));
    }
  }
}

// Integer sums are exact: y is the one number that the rounded operands give.
TEST_F(LinearTest, Int8SumsAreExact) {
  if (!cpu_features().avx2 && !cpu_features().neon)
    GTEST_SKIP() << "the baseline multiplies int8 weights as floats";
  const std::int64_t cols = 5000;
  const TestWeight weight = random_weight(20, cols, DType::kBF16, 0.3);
  for (const PackedKind kind : {PackedKind::kDenseInt8, PackedKind::kBitmapInt8}) {
    const PackedTensor packed = pack(weight.view(), {kind});
    const Matrix w = unpack_f32(packed);
    const Matrix x = random_matrix(3, cols, 9);
    Matrix y(3, 20);
    Linear(packed).forward(x.view(), {}, y.view());
    for (std::int64_t t = 0; t < 3; ++t) {
      float largest = 0.0f;
      for (std::int64_t i = 0; i < cols; ++i) largest = std::max(largest, std::abs(x.at(t, i)));
      const float scale = largest / 32767.0f;
      const float inverse = 1.0f / scale;
      for (std::int64_t o = 0; o < 20; ++o) {
        std::int64_t sum = 0;
        for (std::int64_t i = 0; i < cols; ++i) {
          sum +=
              std::lrint(double{w.at(o, i)} / double{packed.scales()[o]}) * std::lrint(x.at(t, i) * inverse);
        }
        const double value = double{packed.scales()[o]} * double{scale} * static_cast<double>(sum);
        EXPECT_EQ(y.at(t, o), static_cast<float>(value)) << name_of(kind) << " " << t << " " << o;
      }
    }
  }
}

TEST_F(LinearTest, Int8ExtremesDoNotOverflow) {
  const std::int64_t cols = 65536;
  TestWeight weight = random_weight(2, cols, DType::kBF16, 0.0);
  std::fill(weight.bits.begin(), weight.bits.begin() + cols, f32_to_bf16(1.0f));
  std::fill(weight.bits.begin() + cols, weight.bits.end(), f32_to_bf16(-1.0f));
  Matrix x(1, cols), y(1, 2);
  std::fill(x.values().begin(), x.values().end(), 2.0f);
  Linear(pack(weight.view(), {PackedKind::kDenseInt8})).forward(x.view(), {}, y.view());
  EXPECT_NEAR(y.at(0, 0), 131072.0f, 1.0f);
  EXPECT_NEAR(y.at(0, 1), -131072.0f, 1.0f);
}

}  // namespace
}  // namespace swiftprune
