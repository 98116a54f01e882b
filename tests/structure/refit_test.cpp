#include "swiftprune/structure/refit.h"

#include <cmath>

#include <gtest/gtest.h>

#include "support/random_matrix.h"
#include "swiftprune/calibration/activation_stats.h"

namespace swiftprune {
namespace {

using testing::random_matrix;

class Refit : public ::testing::Test {
 protected:
  LayerStats collect(const Matrix& x) {
    stats_.emplace(x.cols(), StatNeeds{.energy = true, .sum = true, .gram = true});
    stats_->add_window(*backend_, x.view());
    stats_->finish("x");
    return stats_->view();
  }
  LayerStats collect(const AlignedWindow& window, std::int64_t residual) {
    StatNeeds needs{.energy = true, .gram = true, .alignment = true};
    stats_.emplace(window.x.cols, needs, residual);
    stats_->add_window(*backend_, window);
    stats_->finish("x");
    return stats_->view();
  }

  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  std::optional<ActivationStats> stats_;
};

// [N, O] x_K Bᵀ
Matrix outputs(const Matrix& x, const Matrix& b, const std::vector<std::int64_t>& columns) {
  Matrix y = Matrix::zeros(x.rows(), b.rows());
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    for (std::int64_t o = 0; o < b.rows(); ++o) {
      for (std::size_t k = 0; k < columns.size(); ++k)
        y.at(t, o) += b.at(o, static_cast<std::int64_t>(k)) * x.at(t, columns[k]);
    }
  }
  return y;
}

double distance(const Matrix& a, const Matrix& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.values().size(); ++i) {
    const double d = double{a.values()[i]} - double{b.values()[i]};
    sum += d * d;
  }
  return std::sqrt(sum);
}

TEST_F(Refit, ExpressesARemovedColumnByTheOthers) {
  Matrix x = random_matrix(300, 5, 1);
  for (std::int64_t t = 0; t < x.rows(); ++t) x.at(t, 2) = 2.0f * x.at(t, 0) - x.at(t, 4);
  const Matrix w = random_matrix(3, 5, 2);
  const std::vector<std::int64_t> kept = {0, 1, 3, 4};
  const Matrix b = refit_columns(w.view(), collect(x), kept, {.damping = 1e-6}, *backend_, "w");
  for (std::int64_t o = 0; o < 3; ++o) {
    EXPECT_NEAR(b.at(o, 0), w.at(o, 0) + 2.0f * w.at(o, 2), 1e-2);
    EXPECT_NEAR(b.at(o, 1), w.at(o, 1), 1e-2);
    EXPECT_NEAR(b.at(o, 3), w.at(o, 4) - w.at(o, 2), 1e-2);
  }
}

// No small change of the weights makes the outputs' error smaller.
TEST_F(Refit, IsTheLeastSquaresSolution) {
  Matrix x = random_matrix(400, 6, 3);
  for (std::int64_t t = 0; t < x.rows(); ++t) x.at(t, 5) += 0.7f * x.at(t, 1) - 0.4f * x.at(t, 3);
  const Matrix w = random_matrix(2, 6, 4);
  const std::vector<std::int64_t> kept = {0, 1, 3, 4}, all = {0, 1, 2, 3, 4, 5};
  const Matrix wanted = outputs(x, w, all);
  Matrix b = refit_columns(w.view(), collect(x), kept, {.damping = 1e-7}, *backend_, "w");
  const double best = distance(outputs(x, b, kept), wanted);
  EXPECT_LT(best, 0.98 * distance(outputs(x, take_columns(w.view(), kept), kept), wanted));
  for (std::int64_t k = 0; k < 4; ++k) {
    for (const float step : {-0.05f, 0.05f}) {
      b.at(1, k) += step;
      EXPECT_GT(distance(outputs(x, b, kept), wanted), best) << k;
      b.at(1, k) -= step;
    }
  }
}

TEST_F(Refit, HeavyDampingLeavesTheWeights) {
  const Matrix x = random_matrix(100, 4, 5), w = random_matrix(3, 4, 6);
  const std::vector<std::int64_t> kept = {1, 2};
  const Matrix b = refit_columns(w.view(), collect(x), kept, {.damping = 1e6}, *backend_, "w");
  EXPECT_LT(distance(b, take_columns(w.view(), kept)), 1e-4);
}

// The shrunk model sees 2x where the dense one saw x: the whole correction halves the weights.
TEST_F(Refit, AlphaLeadsBackToTheDenseInputs) {
  const Matrix dense = random_matrix(200, 4, 7), w = random_matrix(3, 4, 8);
  Matrix x = dense.clone();
  for (float& value : x.values()) value *= 2.0f;
  const std::vector<std::int64_t> all = {0, 1, 2, 3};
  const LayerStats stats = collect({.x = x.view(), .dense_x = dense.view()}, 0);
  for (const double alpha : {0.0, 0.5, 1.0}) {
    const Matrix b = refit_columns(w.view(), stats, all, {.damping = 1e-6, .alpha = alpha}, *backend_, "w");
    for (std::size_t i = 0; i < b.values().size(); ++i) {
      EXPECT_NEAR(b.values()[i], w.values()[i] * (1.0 - 0.5 * alpha), 1e-3) << alpha;
    }
  }
}

// The residual lacks V x: with β = 1 the projection adds it.
TEST_F(Refit, BetaMakesUpForTheResidual) {
  const Matrix x = random_matrix(200, 4, 9), w = random_matrix(3, 4, 10), v = random_matrix(3, 4, 11);
  const std::vector<std::int64_t> all = {0, 1, 2, 3};
  const Matrix dense_residual = outputs(x, v, all), residual = Matrix::zeros(200, 3);
  const LayerStats stats = collect({.x = x.view(),
                                    .dense_x = x.view(),
                                    .residual = residual.view(),
                                    .dense_residual = dense_residual.view()},
                                   3);
  const Matrix b = refit_columns(w.view(), stats, all, {.damping = 1e-6, .beta = 1.0}, *backend_, "w");
  for (std::size_t i = 0; i < b.values().size(); ++i) {
    EXPECT_NEAR(b.values()[i], w.values()[i] + v.values()[i], 1e-2);
  }
}

TEST_F(Refit, MeanErrorIsWhatABiasMustAdd) {
  Matrix x = random_matrix(64, 3, 12);
  for (std::int64_t t = 0; t < x.rows(); ++t) x.at(t, 1) += 5.0f;
  const Matrix w = random_matrix(2, 3, 13);
  Matrix shrunk = w.clone();
  for (std::int64_t o = 0; o < 2; ++o) shrunk.at(o, 1) = 0.0f;
  const std::vector<float> shift = mean_error(w.view(), shrunk.view(), collect(x));
  const std::vector<std::int64_t> all = {0, 1, 2};
  const Matrix before = outputs(x, w, all), after = outputs(x, shrunk, all);
  for (std::int64_t o = 0; o < 2; ++o) {
    double mean = 0.0;
    for (std::int64_t t = 0; t < 64; ++t) mean += (before.at(t, o) - after.at(t, o)) / 64.0;
    EXPECT_NEAR(shift[static_cast<std::size_t>(o)], mean, 1e-4);
  }
}

}  // namespace
}  // namespace swiftprune
