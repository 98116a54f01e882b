#include "swiftprune/structure/unit_scores.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/random_matrix.h"
#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/structure/refit.h"

namespace swiftprune {
namespace {

using ::testing::ElementsAre;

class UnitScores : public ::testing::Test {
 protected:
  // Windows of two tokens each.
  std::vector<double> score(const std::string& name, const Matrix& weight, const Matrix& x,
                            std::int64_t num_kept) {
    StatNeeds needs{.energy = true, .ewma_energy = true, .sum = true, .gram = true};
    stats_.emplace(x.cols(), needs);
    for (std::int64_t row = 0; row < x.rows(); row += 2) {
      stats_->add_window(*backend_, x.view().row_block(row, 2));
    }
    stats_->finish("x");
    return score_columns(unit_scorer(name), weight.view(), stats_->view(), num_kept, *backend_);
  }

  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  std::optional<ActivationStats> stats_;
};

Matrix matrix(std::int64_t rows, std::int64_t cols, const std::vector<float>& values) {
  Matrix m(rows, cols);
  std::copy(values.begin(), values.end(), m.data());
  return m;
}

// W = [[1, 2], [-3, 0]], tokens (1, 2), (3, 2): energies 10 and 8, means 2 and 2, variances 1 and 0.
TEST_F(UnitScores, ByHand) {
  const Matrix w = matrix(2, 2, {1, 2, -3, 0}), x = matrix(2, 2, {1, 2, 3, 2});
  EXPECT_THAT(score("contribution", w, x, 1), ElementsAre(10 * 10, 8 * 4));
  const std::vector<double> wanda = score("wanda-sp", w, x, 1);
  EXPECT_DOUBLE_EQ(wanda[0], 4 * std::sqrt(10.0));
  EXPECT_DOUBLE_EQ(wanda[1], 2 * std::sqrt(8.0));
  EXPECT_THAT(score("flap", w, x, 1), ElementsAre(10, 0));
  EXPECT_THAT(score("magnitude", w, x, 1), ElementsAre(10, 4));
}

// The mean over the windows while there are few.
TEST_F(UnitScores, ContributionIsAnEwmaOverWindows) {
  const Matrix w = matrix(1, 1, {1}), x = matrix(4, 1, {1, 1, 2, 2});
  EXPECT_THAT(score("contribution", w, x, 1), ElementsAre((2.0 + 8.0) / 2.0));
}

// Of two columns that see the same input only one can go: the other then stands in for it.
TEST_F(UnitScores, ObsKeepsOneOfTwins) {
  Matrix x = testing::random_matrix(200, 6, 1);
  for (std::int64_t t = 0; t < x.rows(); ++t) x.at(t, 1) = x.at(t, 0);
  // The twins contribute most, columns 2 and 3 least, but nothing stands in for those.
  Matrix w(5, 6);
  const std::vector<float> sizes = {1.5f, 1.5f, 0.9f, 0.9f, 1.2f, 1.2f};
  for (std::int64_t o = 0; o < 5; ++o) std::copy_n(sizes.data(), 6, w.row(o));
  const auto kept = best_units(score("obs", w, x, 5), 1, 5);
  EXPECT_TRUE((kept == std::vector<std::int64_t>{0, 2, 3, 4, 5}) ||
              (kept == std::vector<std::int64_t>{1, 2, 3, 4, 5}));
  const auto four = best_units(score("obs", w, x, 4), 1, 4);
  EXPECT_TRUE(four[0] == 0 || four[0] == 1) << "both twins went";
  // The score that does not look at the others removes the weak ones.
  EXPECT_THAT(best_units(score("contribution", w, x, 4), 1, 4), ElementsAre(0, 1, 4, 5));
}

TEST(BestUnits, SumsColumnsAndKeepsTheLowerOfTies) {
  const std::vector<double> scores = {1, 0, 3, 3, 2, 4, 0, 6};
  EXPECT_THAT(best_units(scores, 1, 3), ElementsAre(2, 5, 7));
  EXPECT_THAT(best_units(scores, 2, 2), ElementsAre(1, 2));  // sums 1, 6, 6, 6
  EXPECT_THAT(best_units(scores, 2, 4), ElementsAre(0, 1, 2, 3));
  EXPECT_TRUE(best_units(scores, 4, 0).empty());
}

TEST(UnitScorers, UnknownNames) {
  test::expect_error(
      ErrorKind::kUsage, [] { unit_scorer("best"); },
      "--score: found 'best', expected one of contribution, wanda-sp, flap");
}

}  // namespace
}  // namespace swiftprune
