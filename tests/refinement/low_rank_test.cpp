// Sparse + low rank: the low-rank step against eigenvectors in double, the iteration against its formulas, and what holds
// whatever the numbers are.
#include <cmath>
#include <tuple>

#include <gtest/gtest.h>

#include "refinement/double_reference.h"
#include "support/expect_error.h"
#include "support/problem.h"
#include "support/spec_text.h"
#include "swiftprune/refinement/admm.h"
#include "swiftprune/refinement/low_rank_fit.h"

namespace swiftprune {
namespace {

using testing::Doubles;
using testing::make_problem;
using testing::Problem;
using testing::ProblemOptions;

Doubles sum(const Doubles& a, const Doubles& b, double share = 1.0) {
  Doubles result = a;
  for (std::size_t i = 0; i < result.values.size(); ++i) result.values[i] += share * b.values[i];
  return result;
}

Doubles low_rank_of(const LowRank& part) {
  return testing::product(Doubles(part.left.view()), Doubles(part.right.view()));
}

double size_of(const Doubles& m) {
  return std::sqrt(testing::error_of(m, Doubles(m.rows, m.cols), [&] {
    Doubles identity(m.cols, m.cols);
    for (std::int64_t j = 0; j < m.cols; ++j) identity.at(j, j) = 1.0;
    return identity;
  }()));
}

Refinement refine(std::string_view spec, const Problem& problem, const PruneTarget& target, std::int64_t rank,
                  const Backend& backend) {
  const auto refiner = make_refiner(parse_refine(spec));
  const auto prepared =
      refiner->prepare(testing::stats_of(problem), backend, "layer", {.low_rank = rank > 0});
  RefineTask task;
  task.weight = problem.weight.view();
  task.target = target;
  task.low_rank = rank;
  return refiner->refine(task, *prepared, backend);
}

// Relative to what the dense weights give.
double error_of(const Problem& problem, const Refinement& refined) {
  const Doubles w(problem.weight.view()), g(problem.gram.view());
  Doubles b(refined.weight.view());
  if (refined.low_rank) b = sum(b, low_rank_of(*refined.low_rank));
  return testing::error_of(w, b, g) / testing::error_of(w, Doubles(w.rows, w.cols), g);
}

std::vector<PruneTarget> low_rank_targets() {
  return {{.sparsity = 0.5}, {.sparsity = 0.7}, {.pattern = parse_pattern("2:4")}};
}

TEST(LowRankFit, IsTheBestOfItsRank) {
  const Problem problem = make_problem({.outputs = 24, .inputs = 32});
  const Doubles e(problem.weight.view()), a(problem.gram.view());
  const testing::Eigen eigen =
      testing::eigen_of(testing::product(testing::product(e, a), testing::transposed(e)));
  for (const Backend* backend : testing::backends()) {
    for (const std::int64_t rank : {1, 3, 8, 24}) {
      double best = 0.0;  // what no L of this rank can take
      for (std::size_t i = static_cast<std::size_t>(rank); i < eigen.values.size(); ++i)
        best += eigen.values[i];
      LowRankFit fit(24, rank);
      double before = testing::error_of(e, Doubles(24, 32), a);
      const double whole = before;
      for (int round = 0; round < 30; ++round) {
        fit.update(problem.weight.view(), problem.gram.view(), 1, *backend);
        const Doubles l = testing::product(Doubles(fit.left()), Doubles(fit.right()));
        const double error = testing::error_of(e, l, a);
        EXPECT_LE(error, before + 1e-5 * whole) << backend->name() << " rank " << rank << " round " << round;
        before = error;
      }
      EXPECT_LE(before, best * 1.02 + 1e-5 * whole) << backend->name() << " rank " << rank;
      const Doubles q(fit.left());
      const Doubles qq = testing::product(testing::transposed(q), q);
      for (std::int64_t i = 0; i < rank; ++i) {
        for (std::int64_t j = 0; j < rank; ++j) EXPECT_NEAR(qq.at(i, j), i == j ? 1.0 : 0.0, 1e-5);
      }
    }
  }
}

// An error of lower rank than L, then nothing at all, then another error: vectors are drawn anew, nothing is NaN.
TEST(LowRankFit, FollowsErrorsThatVanish) {
  const auto& backend = *testing::backends()[1];
  const Matrix left = testing::random_matrix(12, 2, 3), right = testing::random_matrix(2, 16, 4);
  Matrix thin(12, 16), whole = testing::random_matrix(12, 16, 5), gram = Matrix::zeros(16, 16);
  backend.matmul(left.view(), right.view(), 1.0f, 0.0f, thin.view());
  for (std::int64_t j = 0; j < 16; ++j) gram.at(j, j) = 1.0f + static_cast<float>(j);
  LowRankFit fit(12, 5);
  const auto left_over = [&](const Matrix& error) {
    fit.update(error.view(), gram.view(), 4, backend);
    return size_of(
        sum(Doubles(error.view()), testing::product(Doubles(fit.left()), Doubles(fit.right())), -1.0));
  };
  EXPECT_NEAR(left_over(thin), 0.0, 1e-4);
  EXPECT_EQ(left_over(Matrix::zeros(12, 16)), 0.0);
  EXPECT_LT(left_over(whole), 0.9 * size_of(Doubles(whole.view())));
}

TEST(LowRankFit, FactorsAreBalancedAndUnscaled) {
  const Matrix left = testing::random_matrix(6, 3, 1), right = testing::random_matrix(3, 8, 2, 100.0f);
  const std::vector<float> scale = {1, 2, 3, 4, 0.5, 0.25, 10, 1};
  const LowRank part = balanced(left.view(), right.view(), scale);
  const Doubles before = testing::product(Doubles(left.view()), Doubles(right.view()));
  const Doubles after = low_rank_of(part);
  for (std::int64_t r = 0; r < 6; ++r) {
    for (std::int64_t j = 0; j < 8; ++j) {
      const double expected = before.at(r, j) / double{scale[static_cast<std::size_t>(j)]};
      EXPECT_NEAR(after.at(r, j), expected, 1e-4 * (1.0 + std::abs(expected)));
    }
  }
  for (std::int64_t k = 0; k < 3; ++k) {
    double l = 0.0, r = 0.0;
    for (std::int64_t o = 0; o < 6; ++o) l += std::pow(double{part.left.at(o, k)}, 2);
    for (std::int64_t j = 0; j < 8; ++j) r += std::pow(double{part.right.at(k, j)}, 2);
    EXPECT_NEAR(l, r, 1e-4 * r);
  }
}

// Rounds of subspace iteration are not the eigenvectors themselves: a single step, whose mask knows nothing of them, comes to
// nearly the error of the formulas; of twenty the masks differ in a few places, for better or worse.
TEST(LowRankAdmm, ComesToTheErrorOfTheFormulas) {
  const auto relative_error = [](const Problem& problem, const testing::ReferenceResult& result) {
    const Doubles w(problem.weight.view()), g(problem.gram.view());
    return testing::error_of(w, sum(result.weight, result.low_rank), g) /
           testing::error_of(w, Doubles(w.rows, w.cols), g);
  };
  for (const ProblemOptions& options :
       {ProblemOptions{.outputs = 24}, ProblemOptions{.outputs = 24, .correlated = false, .seed = 5},
        ProblemOptions{.outputs = 24, .dead_input = 3, .seed = 17}}) {
    const Problem problem = make_problem(options);
    const Doubles w(problem.weight.view()), g(problem.gram.view()), none(w.rows, w.cols);
    for (const PruneTarget& target : low_rank_targets()) {
      for (const auto& [steps, ramp, tolerance] : {std::tuple{1, 1, 0.1}, std::tuple{20, 15, 0.2}}) {
        const double plain = relative_error(
            problem,
            testing::reference_admm(w, g, target.pattern, target.sparsity, steps, ramp, nullptr, 0.0, 4));
        const double aligned =
            relative_error(problem, testing::reference_aligned_admm(w, g, g, none, 0.0, 0.0, target.pattern,
                                                                    target.sparsity, steps, ramp, 4));
        for (const Backend* backend : testing::backends()) {
          SCOPED_TRACE(fmt::format("{} seed {} steps {}", backend->name(), options.seed, steps));
          const auto found = [&](const char* refine_name) {
            return error_of(problem, refine(fmt::format("{}({},{})", refine_name, steps, ramp), problem,
                                            target, 4, *backend));
          };
          EXPECT_NEAR(found("admm"), plain, tolerance * plain);
          EXPECT_NEAR(found("aligned-admm"), aligned, tolerance * aligned);
        }
      }
    }
  }
}

TEST(LowRankAdmm, KeepsThePatternAndLowersTheError) {
  for (const ProblemOptions& options : {ProblemOptions{}, ProblemOptions{.correlated = false, .seed = 5},
                                        ProblemOptions{.outputs = 9, .inputs = 64, .tokens = 30, .seed = 13},
                                        ProblemOptions{.dead_input = 3, .seed = 17}}) {
    const Problem problem = make_problem(options);
    for (const PruneTarget& target : low_rank_targets()) {
      for (const char* spec : {"admm(20,15)", "aligned-admm(20,15)"}) {
        for (const Backend* backend : testing::backends()) {
          SCOPED_TRACE(
              fmt::format("{} {} seed {} sparsity {}", backend->name(), spec, options.seed, target.sparsity));
          const Refinement plain = refine(spec, problem, target, 0, *backend);
          double before = error_of(problem, plain);
          for (const std::int64_t rank : {1, 3, 6}) {
            const Refinement found = refine(spec, problem, target, rank, *backend);
            ASSERT_TRUE(found.low_rank);
            EXPECT_EQ(found.low_rank->rank(), rank);
            EXPECT_EQ(found.mask.num_kept(), plain.mask.num_kept());
            for (std::int64_t r = 0; r < problem.weight.rows(); ++r) {
              std::int64_t kept = 0;
              for (std::int64_t j = 0; j < problem.weight.cols(); ++j) {
                if (!found.mask.kept(r, j)) {
                  EXPECT_EQ(found.weight.at(r, j), 0.0f);
                }
                kept += found.mask.kept(r, j) ? 1 : 0;
                if (target.pattern.kind != Pattern::Kind::kNofM || j % 4 != 3) continue;
                EXPECT_EQ(kept, 2);
                kept = 0;
              }
            }
            // Without, and with fewer ranks, nothing is better.
            EXPECT_LE(error_of(problem, found), 1.02 * before) << rank;
            before = error_of(problem, found);
            Refinement alone;  // the same weights without the part beside them
            alone.weight = found.weight.clone();
            EXPECT_LT(before, error_of(problem, alone));
          }
          EXPECT_LT(before, 0.9 * error_of(problem, plain));
        }
      }
    }
  }
}

TEST(LowRankAdmm, OfFullRankNothingIsLost) {
  const Problem problem = make_problem({.outputs = 8});
  const Refinement found = refine("admm(20,15)", problem, {.sparsity = 0.5}, 8, *testing::backends()[1]);
  EXPECT_LT(error_of(problem, found), 1e-9);
  const Doubles w(problem.weight.view());
  const Doubles lost = sum(sum(Doubles(found.weight.view()), low_rank_of(*found.low_rank)), w, -1.0);
  EXPECT_LT(size_of(lost), 1e-4 * size_of(w));
}

TEST(LowRankAdmm, StandsAlone) {
  EXPECT_TRUE(parse_refine("admm").facts().finds_low_rank);
  EXPECT_TRUE(parse_refine("aligned-admm").facts().finds_low_rank);
  for (const char* spec : {"none", "pcg", "sparsegpt", "admm+pcg", "aligned-admm+swaps"})
    EXPECT_FALSE(parse_refine(spec).facts().finds_low_rank) << spec;
}

}  // namespace
}  // namespace swiftprune
