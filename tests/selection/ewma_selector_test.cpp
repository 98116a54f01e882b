#include "swiftprune/selection/ewma_selector.h"

#include <cmath>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/isas.h"
#include "support/random_matrix.h"
#include "support/spec_text.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

using ::testing::HasSubstr;
using testing::random_matrix;

// The published loop, one weight after another.
Mask published(const ScoreView& scores, double lambda, double alpha, double beta) {
  Mask mask(scores.values.rows, scores.values.cols);
  for (std::int64_t r = 0; r < mask.rows(); ++r) {
    double mean = 0.0;
    double dev = 0.0;
    for (std::int64_t c = 0; c < mask.cols(); ++c) {
      const double score = std::pow(double{score_key(scores, r, c)}, scores.power);
      if (c == 0) {
        mean = score;
        dev = score / 2.0;
      }
      if (score >= mean + lambda * dev) mask.keep(r, c);
      dev = (1.0 - beta) * dev + beta * std::abs(score - mean);
      mean = (1.0 - alpha) * mean + alpha * score;
    }
  }
  return mask;
}

std::int64_t differences(const Mask& a, const Mask& b) {
  std::int64_t count = 0;
  for (std::int64_t r = 0; r < a.rows(); ++r) {
    for (std::int64_t c = 0; c < a.cols(); ++c) count += a.kept(r, c) != b.kept(r, c);
  }
  return count;
}

TEST(EwmaSelector, FollowsThePublishedLoop) {
  const Matrix w = random_matrix(40, 333, 3);
  for (int power : {1, 2}) {
    const ScoreView scores = plain_scores(w.view(), power);
    for (double lambda : {-0.5, 0.0, 0.7, 4.0}) {
      for (Isa isa : testing::available_isas()) {
        const auto selector =
            make_selector("ewma", {.lambda = lambda, .alpha = 0.2, .beta = 0.1, .isa = isa});
        const Selection selection = selector->select(scores, {});
        // A score within rounding of its threshold may fall on either side.
        EXPECT_LE(differences(selection.mask, published(scores, lambda, 0.2, 0.1)), 1) << lambda;
        EXPECT_DOUBLE_EQ(*selection.report.lambda, static_cast<double>(static_cast<float>(lambda)));
      }
    }
  }
}

// Measured on a model's weights (w², docs/method.md): lambda 4 prunes 95.9 %, -0.5 prunes 50.6 %. Weights are
// close to normal, so normal ones give nearly the same.
TEST(EwmaSelector, PublishedLambdaMissesTheSparsity) {
  const Matrix w = random_matrix(64, 4096, 1);
  const ScoreView scores = plain_scores(w.view(), 2);
  EXPECT_NEAR(make_selector("ewma", {.lambda = 4.0})->select(scores, {}).report.sparsity, 0.959, 0.03);
  EXPECT_NEAR(make_selector("ewma", {.lambda = -0.5})->select(scores, {}).report.sparsity, 0.506, 0.03);
}

TEST(EwmaSelector, BisectionReachesTheSparsity) {
  const Matrix w = random_matrix(64, 1024, 2);
  for (double sparsity : {0.1, 0.5, 0.7, 0.95}) {
    const Selection selection =
        make_selector("ewma")->select(plain_scores(w.view(), 2), {.sparsity = sparsity});
    EXPECT_NEAR(selection.report.sparsity, sparsity, 1e-4);
    ASSERT_TRUE(selection.report.lambda.has_value());
    const Selection again =
        make_selector("ewma", {.lambda = *selection.report.lambda})->select(plain_scores(w.view(), 2), {});
    EXPECT_EQ(again.mask, selection.mask);
  }
}

TEST(EwmaSelector, UnreachableSparsityIsAnError) {
  Matrix w(8, 64);
  std::fill(w.values().begin(), w.values().end(), 1.0f);  // all or nothing
  try {
    make_selector("ewma")->select(plain_scores(w.view()), {.sparsity = 0.5, .tensor = "down_proj"});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
    EXPECT_THAT(error.what(), HasSubstr("down_proj"));
    EXPECT_THAT(error.what(), HasSubstr("lambda"));
  }
}

TEST(EwmaSelector, RefusesPatternsItCannotGive) {
  const Matrix w = random_matrix(4, 8, 2);
  for (const char* pattern : {"2:4", "block:2x2"}) {
    EXPECT_THROW(make_selector("ewma")->select(plain_scores(w.view()),
                                               {.pattern = parse_pattern(pattern), .sparsity = 0.5}),
                 Error);
  }
  EXPECT_THROW(make_selector("ewma", {.alpha = 0.0}), Error);
  EXPECT_THROW(make_selector("ewma", {.beta = 1.5}), Error);
  EXPECT_THROW(make_selector("ewma", {.lambda = std::nan("")}), Error);
}

TEST(EwmaSelector, ZerosAndThreads) {
  Matrix w = random_matrix(50, 100, 9);
  std::fill_n(w.row(7), 100, 0.0f);
  Mask first;
  for (int threads : {1, 2, 3}) {
    set_num_threads(threads);
    const Selection selection = make_selector("ewma")->select(plain_scores(w.view()), {.sparsity = 0.5});
    EXPECT_EQ(selection.mask.num_kept(7), 100);  // zero is not below a threshold of zero
    if (threads == 1) first = selection.mask;
    EXPECT_EQ(selection.mask, first);
  }
  set_num_threads(0);
}

}  // namespace
}  // namespace swiftprune
