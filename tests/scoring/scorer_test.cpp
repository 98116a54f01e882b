// Every score against its formula of the paper, written out in double.
#include "swiftprune/scoring/scorer.h"

#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/random_matrix.h"
#include "support/spec_text.h"
#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

using ::testing::HasSubstr;
using testing::random_matrix;

constexpr std::int64_t kOutputs = 70;  // more than one chunk of rows
constexpr std::int64_t kInputs = 37;
constexpr std::int64_t kTokens = 90;

// Statistics of random inputs with a dead one and a large one.
struct Fixture {
  Fixture() : weight(random_matrix(kOutputs, kInputs, 1)), x(random_matrix(kTokens, kInputs, 2)) {
    gram = Matrix::zeros(kInputs, kInputs);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      x.at(t, 5) = 0.0f;
      x.at(t, 9) = x.at(t, 9) * 30.0f + 4.0f;
    }
    energy.assign(kInputs, 0.0);
    sum.assign(kInputs, 0.0);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      for (std::int64_t j = 0; j < kInputs; ++j) {
        energy[static_cast<std::size_t>(j)] += std::pow(double{x.at(t, j)}, 2);
        sum[static_cast<std::size_t>(j)] += double{x.at(t, j)};
      }
    }
    ewma_energy = energy;
    for (std::size_t j = 0; j < ewma_energy.size(); ++j)
      ewma_energy[j] *= 1.0 + 0.01 * static_cast<double>(j);
    backend->add_gram(x.view(), gram.view());
    Backend::symmetrize(gram.view());
  }
  LayerStats stats() const {
    return {.num_tokens = kTokens, .energy = energy, .ewma_energy = ewma_energy, .sum = sum, .gram = &gram};
  }
  double w(std::int64_t i, std::int64_t j) const { return std::abs(double{weight.at(i, j)}); }
  double e(std::int64_t j) const { return energy[static_cast<std::size_t>(j)]; }

  std::unique_ptr<Backend> backend = make_reference_backend();
  Matrix weight;
  Matrix x;
  Matrix gram;
  std::vector<double> energy;
  std::vector<double> ewma_energy;
  std::vector<double> sum;
};

void expect_scores(const Fixture& f, std::string_view spec,
                   const std::function<double(std::int64_t, std::int64_t)>& expected,
                   double tolerance = 1e-6) {
  const Scores scores = make_scorer(spec)->score(weight_view(f.weight.view()), f.stats(), *f.backend, "t");
  const ScoreView view = scores.view(weight_view(f.weight.view()));
  for (std::int64_t i = 0; i < kOutputs; ++i) {
    for (std::int64_t j = 0; j < kInputs; ++j) {
      const double found = std::pow(double{score_key(view, i, j)}, view.power);
      ASSERT_NEAR(found, expected(i, j), tolerance * std::abs(expected(i, j)))
          << spec << " " << i << " " << j;
    }
  }
}

TEST(Scorer, Magnitude) {
  const Fixture f;
  expect_scores(f, "magnitude", [&](auto i, auto j) { return f.w(i, j); });
}

TEST(Scorer, Paper) {
  const Fixture f;
  const double total = std::accumulate(f.energy.begin(), f.energy.end(), 0.0);
  expect_scores(f, "paper", [&](auto i, auto j) {
    return f.w(i, j) * f.w(i, j) / (1.0 - f.e(j) / (total + 1e-6 * total));
  });
}

TEST(Scorer, Contribution) {
  const Fixture f;
  expect_scores(f, "contribution", [&](auto i, auto j) {
    return f.w(i, j) * f.w(i, j) * f.ewma_energy[static_cast<std::size_t>(j)];
  });
}

TEST(Scorer, Wanda) {
  const Fixture f;
  expect_scores(f, "wanda", [&](auto i, auto j) { return f.w(i, j) * std::sqrt(f.e(j)); });
}

TEST(Scorer, Ria) {
  const Fixture f;
  for (const auto& [spec, a] :
       {std::pair{"ria", 0.7}, std::pair{"ria(0.5)", 0.5}, std::pair{"ria(0)", 0.0}}) {
    const double exponent = a;
    expect_scores(
        f, spec,
        [&](auto i, auto j) {
          double row = 0.0;
          double column = 0.0;
          for (std::int64_t k = 0; k < kInputs; ++k) row += f.w(i, k);
          for (std::int64_t k = 0; k < kOutputs; ++k) column += f.w(k, j);
          return (f.w(i, j) / column + f.w(i, j) / row) * std::pow(f.e(j) / kTokens, exponent / 2.0);
        },
        2e-6);
  }
}

TEST(Scorer, Stade) {
  const Fixture f;
  expect_scores(
      f, "stade",
      [&](auto i, auto j) {
        double mean = 0.0;
        double variance = 0.0;
        for (std::int64_t t = 0; t < kTokens; ++t) mean += double{f.x.at(t, j)} / kTokens;
        for (std::int64_t t = 0; t < kTokens; ++t)
          variance += std::pow(double{f.x.at(t, j)} - mean, 2) / kTokens;
        return f.w(i, j) * std::sqrt(variance);
      },
      1e-5);
}

TEST(Scorer, Obs) {
  const Fixture f;
  Matrix inverse = f.gram.clone();
  double mean = 0.0;
  for (std::int64_t j = 0; j < kInputs; ++j) mean += double{f.gram.at(j, j)} / kInputs;
  for (std::int64_t j = 0; j < kInputs; ++j) inverse.at(j, j) += static_cast<float>(0.01 * mean);
  ASSERT_TRUE(f.backend->invert_spd(inverse.view()));
  expect_scores(
      f, "obs", [&](auto i, auto j) { return f.w(i, j) * f.w(i, j) / double{inverse.at(j, j)}; }, 1e-5);
}

TEST(Scorer, RandomComesFromSeedAndTensor) {
  const Fixture f;
  const auto scores = [&](std::string_view spec, std::string_view tensor) {
    return make_scorer(spec)->score(weight_view(f.weight.view()), f.stats(), *f.backend, tensor);
  };
  const Scores one = scores("random(7)", "a");
  const auto same = [&](const Scores& other) {
    return std::equal(one.plain.values().begin(), one.plain.values().end(), other.plain.values().begin());
  };
  EXPECT_TRUE(same(scores("random(7)", "a")));
  EXPECT_FALSE(same(scores("random(8)", "a")));
  EXPECT_FALSE(same(scores("random(7)", "b")));
  double mean = 0.0;
  for (float score : one.plain.values()) {
    ASSERT_GT(score, 0.0f);
    ASSERT_LE(score, 1.0f);
    mean += double{score} / static_cast<double>(one.plain.numel());
  }
  EXPECT_NEAR(mean, 0.5, 0.03);
}

TEST(Scorer, SixteenBitWeightsScoreLikeTheirFloats) {
  const Fixture f;
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(f.weight.numel() * 2));
    convert_from_f32(f.weight.values(), dtype, bytes);
    Matrix rounded(kOutputs, kInputs);
    convert_to_f32(bytes, dtype, rounded.values());
    const WeightView narrow{bytes.data(), dtype, kOutputs, kInputs, kInputs};
    for (const ScoreKind* kind : score_kinds()) {
      const auto scorer = make_scorer(ScoreSpec(*kind));
      const Scores a = scorer->score(narrow, f.stats(), *f.backend, "t");
      const Scores b = scorer->score(weight_view(rounded.view()), f.stats(), *f.backend, "t");
      for (std::int64_t i = 0; i < kOutputs; ++i) {
        for (std::int64_t j = 0; j < kInputs; ++j) {
          ASSERT_EQ(score_key(a.view(narrow), i, j), score_key(b.view(weight_view(rounded.view())), i, j))
              << kind->name;
        }
      }
    }
  }
}

TEST(Scorer, ScoresArePositiveAndFiniteForDeadLayers) {
  Fixture f;
  std::fill(f.energy.begin(), f.energy.end(), 0.0);
  std::fill(f.ewma_energy.begin(), f.ewma_energy.end(), 0.0);
  std::fill(f.sum.begin(), f.sum.end(), 0.0);
  std::fill(f.gram.values().begin(), f.gram.values().end(), 0.0f);
  std::fill_n(f.weight.row(3), kInputs, 0.0f);
  for (std::int64_t i = 0; i < kOutputs; ++i) f.weight.at(i, 2) = 0.0f;
  for (const ScoreKind* kind : score_kinds()) {
    const Scores scores =
        make_scorer(ScoreSpec(*kind))->score(weight_view(f.weight.view()), f.stats(), *f.backend, "t");
    for (std::int64_t i = 0; i < kOutputs; ++i) {
      for (std::int64_t j = 0; j < kInputs; ++j) {
        const float key = score_key(scores.view(weight_view(f.weight.view())), i, j);
        ASSERT_TRUE(std::isfinite(key) && key >= 0.0f) << kind->name;
      }
    }
  }
}

TEST(Scorer, SameWithAnyNumberOfThreads) {
  const Fixture f;
  const auto factors = [&] {
    return make_scorer("ria")->score(weight_view(f.weight.view()), f.stats(), *f.backend, "t");
  };
  set_num_threads(1);
  const Scores one = factors();
  for (int threads : {2, 3}) {
    set_num_threads(threads);
    const Scores more = factors();
    EXPECT_EQ(more.column, one.column);
    EXPECT_EQ(more.row, one.row);
  }
  set_num_threads(0);
}

TEST(Scorer, StatisticsThatAreNotFiniteAreNamed) {
  for (double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), -1.0}) {
    Fixture f;
    f.energy[11] = bad;
    f.ewma_energy[11] = bad;
    f.sum[11] = bad;
    f.gram.at(11, 11) = static_cast<float>(bad);
    for (const char* spec : {"paper", "contribution", "wanda", "ria", "stade", "obs"}) {
      try {
        make_scorer(spec)->score(weight_view(f.weight.view()), f.stats(), *f.backend, "blocks.2.down_proj");
        ADD_FAILURE() << spec;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
        EXPECT_THAT(error.what(), HasSubstr("blocks.2.down_proj"));
        EXPECT_THAT(error.what(), HasSubstr("11"));
      }
    }
  }
}

TEST(DampedInverse, RaisesUntilItExists) {
  const auto backend = make_cpu_backend();
  Matrix a(20, 20);
  for (std::int64_t i = 0; i < 20; ++i) {
    for (std::int64_t j = 0; j < 20; ++j) a.at(i, j) = i == j ? 1.0f : -0.5f;  // smallest eigenvalue -8.5
  }
  const DampedInverse result = damped_inverse(a.view(), {.relative = 0.01, .unit = 1.0}, *backend, "t");
  EXPECT_EQ(result.raised, 3);
  EXPECT_NEAR(result.damping, 10.0, 1e-9);
  for (std::int64_t i = 0; i < 20; ++i) {
    for (std::int64_t j = 0; j < 20; ++j) {
      double sum = 0.0;
      for (std::int64_t k = 0; k < 20; ++k) {
        sum += (double{a.at(i, k)} + (i == k ? 10.0 : 0.0)) * double{result.inverse.at(k, j)};
      }
      EXPECT_NEAR(sum, i == j ? 1.0 : 0.0, 1e-5);
    }
  }
}

}  // namespace
}  // namespace swiftprune
