// Against double sums of rounded inputs, over sizes around pairs, panels and tiles, strided too.
#include "swiftprune/backend/rounded_gram.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "support/random_matrix.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

using testing::random_matrix;

void expect_gram(ConstMatrixView x) {
  const auto backend = make_cpu_backend();
  Matrix gram(x.cols, x.cols);
  std::fill(gram.values().begin(), gram.values().end(), 1.0f);
  add_rounded_gram(*backend, x, gram.view());
  const auto rounded = [&](std::int64_t n, std::int64_t i) {
    return double{bf16_to_f32(f32_to_bf16(x.at(n, i)))};
  };
  for (std::int64_t i = 0; i < x.cols; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) {
      double sum = 1.0, size = 1.0;
      for (std::int64_t n = 0; n < x.rows; ++n) {
        sum += rounded(n, i) * rounded(n, j);
        size += std::abs(rounded(n, i) * rounded(n, j));
      }
      ASSERT_NEAR(gram.at(i, j), sum, 1e-5 * size) << x.rows << " x " << x.cols << ", " << i << " " << j;
    }
  }
}

TEST(RoundedGram, IsTheProductOfRoundedInputs) {
  for (const std::int64_t channels : {1, 7, 8, 9, 15, 16, 17, 47, 48, 49, 97}) {
    for (const std::int64_t tokens : {0, 1, 2, 3, 64, 65}) {
      const Matrix x = random_matrix(tokens, channels, 5);
      expect_gram(x.view());
    }
  }
}

TEST(RoundedGram, TakesLongAndStridedInputs) {
  expect_gram(random_matrix(4099, 20, 6).view());
  const Matrix wide = random_matrix(33, 80, 7);
  expect_gram(wide.view().col_block(3, 50));
}

TEST(RoundedGram, IsTheSameOnAnyNumberOfThreads) {
  const auto backend = make_cpu_backend();
  const Matrix x = random_matrix(300, 130, 8);
  const int threads = num_threads();
  Matrix one = Matrix::zeros(130, 130), many = Matrix::zeros(130, 130);
  set_num_threads(1);
  add_rounded_gram(*backend, x.view(), one.view());
  set_num_threads(4);
  add_rounded_gram(*backend, x.view(), many.view());
  set_num_threads(threads);
  for (std::int64_t i = 0; i < 130; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) ASSERT_EQ(one.at(i, j), many.at(i, j));
  }
}

}  // namespace
}  // namespace swiftprune
