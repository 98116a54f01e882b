#include "swiftprune/refinement/low_rank_fit.h"

#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

// Eight sums side by side, so that additions do not wait for one another.
double dot(std::span<const double> a, std::span<const double> b) {
  std::array<double, 8> sums{};
  std::size_t i = 0;
  for (; i + sums.size() <= a.size(); i += sums.size()) {
    for (std::size_t k = 0; k < sums.size(); ++k) sums[k] += a[i + k] * b[i + k];
  }
  for (; i < a.size(); ++i) sums[0] += a[i] * b[i];
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace

LowRankFit::LowRankFit(std::int64_t outputs, std::int64_t rank) : basis_(rank, outputs) {
  expect(rank >= 1 && rank <= outputs, "LowRankFit: 1 <= rank <= outputs");
  std::normal_distribution<float> normal;
  for (float& value : basis_.values()) value = normal(random_);
  orthonormalise();
}

// Gram and Schmidt in double, each vector twice, which is enough. One that the others hold but for rounding (an error of
// lower rank) is drawn anew: the next errors may need it.
void LowRankFit::orthonormalise() {
  constexpr double kRounding = 1e-5;  // of float products
  const std::int64_t rank = basis_.rows(), size = basis_.cols();
  std::vector<std::vector<double>> vectors;
  std::normal_distribution<double> normal;
  for (std::int64_t r = 0; r < rank; ++r) {
    const auto row = basis_.view().row_span(r);
    std::vector<double> vector(row.begin(), row.end());
    for (double before = std::sqrt(dot(vector, vector));; before = std::sqrt(dot(vector, vector))) {
      for (int pass = 0; pass < 2; ++pass) {
        for (const std::vector<double>& other : vectors) {
          const double share = dot(vector, other);
          for (std::size_t i = 0; i < vector.size(); ++i) vector[i] -= share * other[i];
        }
      }
      const double left = std::sqrt(dot(vector, vector));
      if (left > kRounding * before && std::isnormal(left)) {
        for (double& value : vector) value /= left;
        break;
      }
      for (double& value : vector) value = normal(random_);
    }
    for (std::int64_t i = 0; i < size; ++i)
      basis_.at(r, i) = static_cast<float>(vector[static_cast<std::size_t>(i)]);
    vectors.push_back(std::move(vector));
  }
}

void LowRankFit::update(ConstMatrixView error, ConstMatrixView metric, int rounds, const Backend& backend) {
  expect(error.rows == basis_.cols() && metric.rows == error.cols, "LowRankFit: shapes agree");
  if (right_.cols() != error.cols) right_ = Matrix(basis_.rows(), error.cols);
  Matrix weighed(basis_.rows(), error.cols);
  for (int round = 0; round < rounds; ++round) {
    backend.matmul(basis_.view(), error, 1.0f, 0.0f, right_.view());
    backend.matmul(right_.view(), metric, 1.0f, 0.0f, weighed.view());
    backend.matmul_transposed(weighed.view(), error, 1.0f, 0.0f, basis_.view());
    orthonormalise();
  }
  backend.matmul(basis_.view(), error, 1.0f, 0.0f, right_.view());
  if (left_.empty()) left_ = Matrix(basis_.cols(), basis_.rows());
  for (std::int64_t o = 0; o < left_.rows(); ++o) {
    for (std::int64_t r = 0; r < left_.cols(); ++r) left_.at(o, r) = basis_.at(r, o);
  }
}

LowRank balanced(ConstMatrixView left, ConstMatrixView right, std::span<const float> scale) {
  LowRank result{copy_of(left), copy_of(right)};
  for (std::int64_t r = 0; r < right.rows; ++r) {
    double of_left = 0.0, of_right = 0.0;
    for (std::int64_t o = 0; o < left.rows; ++o) of_left += double{left.at(o, r)} * double{left.at(o, r)};
    for (std::int64_t j = 0; j < right.cols; ++j) {
      const double value = double{right.at(r, j)} / double{scale[static_cast<std::size_t>(j)]};
      result.right.at(r, j) = static_cast<float>(value);
      of_right += value * value;
    }
    // A product of nothing stays one in both factors.
    const bool any = of_left > 0.0 && of_right > 0.0;
    const double factor = any ? std::pow(of_right / of_left, 0.25) : 0.0;
    for (std::int64_t o = 0; o < left.rows; ++o)
      result.left.at(o, r) = static_cast<float>(double{left.at(o, r)} * factor);
    for (float& value : result.right.view().row_span(r))
      value = any ? static_cast<float>(double{value} / factor) : 0.0f;
  }
  return result;
}

}  // namespace swiftprune
