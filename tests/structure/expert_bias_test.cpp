// Output biases of experts: no other ones make what is left smaller.
#include "swiftprune/structure/expert_bias.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "swiftprune/core/index.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kTokens = 400, kMembers = 6, kHidden = 3, kChosen = 2;

// Tokens with two of the first five members each, by random weights; the last is used by nobody.
struct Sent {
  Routing routing{kChosen, {}, {}};
  std::vector<double> weights;
  Matrix lacking{kTokens, kHidden};
  Matrix gates = Matrix::zeros(kTokens, kMembers);

  Sent() {
    std::mt19937 random(7);
    std::uniform_real_distribution<float> between(0.1f, 1.0f);
    std::normal_distribution<float> normal;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const auto first = static_cast<std::int32_t>(random() % 5);
      for (const std::int32_t e : {first, (first + 1 + static_cast<std::int32_t>(random() % 4)) % 5}) {
        routing.experts.push_back(e);
        routing.gates.push_back(between(random));
        gates.at(t, e) = routing.gates.back();
      }
      weights.push_back(double{between(random)});
      for (std::int64_t c = 0; c < kHidden; ++c)
        lacking.at(t, c) = normal(random) + 2.0f * gates.at(t, 1) - gates.at(t, 3);
    }
  }

  Matrix by_member() const {
    Matrix result = Matrix::zeros(kMembers, kHidden);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      for (std::int64_t j = 0; j < kMembers; ++j) {
        for (std::int64_t c = 0; c < kHidden; ++c)
          result.at(j, c) += static_cast<float>(weights[at(t)]) * gates.at(t, j) * lacking.at(t, c);
      }
    }
    return result;
  }

  // Σ w |lacking − Bᵀg|² + damping·Σ A_jj |B_j|²
  double error(const Matrix& biases, double damping) const {
    double sum = 0.0;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      for (std::int64_t c = 0; c < kHidden; ++c) {
        double left = double{lacking.at(t, c)};
        for (std::int64_t j = 0; j < kMembers; ++j) {
          const double gate = double{gates.at(t, j)}, bias = double{biases.at(j, c)};
          left -= gate * bias;
          sum += damping * weights[at(t)] * gate * gate * bias * bias;
        }
        sum += weights[at(t)] * left * left;
      }
    }
    return sum;
  }
};

TEST(ExpertBias, MomentsAreThoseOfTheGates) {
  const Sent sent;
  const Matrix found = gate_moments(sent.routing, sent.weights, kMembers);
  for (std::int64_t j = 0; j < kMembers; ++j) {
    for (std::int64_t k = 0; k < kMembers; ++k) {
      double expected = 0.0;
      for (std::int64_t t = 0; t < kTokens; ++t)
        expected += sent.weights[at(t)] * double{sent.gates.at(t, j)} * double{sent.gates.at(t, k)};
      EXPECT_NEAR(found.at(j, k), expected, 1e-4 * (1.0 + expected)) << j << ", " << k;
    }
  }
}

TEST(ExpertBias, IsTheLeastSquaresSolution) {
  const Sent sent;
  for (const double damping : {0.01, 0.1, 1.0}) {
    const Matrix found =
        fit_expert_biases(gate_moments(sent.routing, sent.weights, kMembers), sent.by_member(), damping);
    const double least = sent.error(found, damping);
    EXPECT_LT(least, sent.error(Matrix::zeros(kMembers, kHidden), damping));
    for (std::int64_t j = 0; j + 1 < kMembers; ++j) {
      for (std::int64_t c = 0; c < kHidden; ++c) {
        for (const float step : {-0.02f, 0.02f}) {
          Matrix other = found.clone();
          other.at(j, c) += step;
          EXPECT_GT(sent.error(other, damping), least) << j << ", " << c;
        }
      }
    }
    for (std::int64_t c = 0; c < kHidden; ++c) EXPECT_EQ(found.at(kMembers - 1, c), 0.0f);
  }
}

// One member that every token uses with weight 1: the mean of what is lacking.
TEST(ExpertBias, OfOneMemberIsTheMean) {
  Routing routing{1, std::vector<std::int32_t>(8, 0), std::vector<float>(8, 1.0f)};
  const std::vector<double> weights(8, 1.0);
  Matrix lacking(1, 2);
  lacking.at(0, 0) = 8.0f * 1.5f;
  lacking.at(0, 1) = 8.0f * -0.25f;
  const Matrix found = fit_expert_biases(gate_moments(routing, weights, 1), std::move(lacking), 1e-6);
  EXPECT_NEAR(found.at(0, 0), 1.5f, 1e-4f);
  EXPECT_NEAR(found.at(0, 1), -0.25f, 1e-4f);
}

}  // namespace
}  // namespace swiftprune
