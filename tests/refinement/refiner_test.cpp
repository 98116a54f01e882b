// Every refinement against its formulas in double, and the promises that hold for all of them.
#include "swiftprune/refinement/refiner.h"
#include "swiftprune/refinement/layer_error.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "refinement/double_reference.h"
#include "support/problem.h"
#include "support/spec_text.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/masking/apply_mask.h"
#include "swiftprune/refinement/admm.h"
#include "swiftprune/refinement/cholesky.h"
#include "swiftprune/scoring/scores.h"
#include "swiftprune/selection/selector.h"

namespace swiftprune {
namespace {

using testing::Doubles;
using ::testing::HasSubstr;
using testing::make_problem;
using testing::Problem;
using testing::ProblemOptions;
using testing::refine;

// Float arithmetic against double: relative size of the difference of the weights.
constexpr double kWeightTolerance = 2e-3;
constexpr double kLongPcgTolerance =
    3e-2;  // directions lose their conjugacy by rounding; the error hardly notices
constexpr double kErrorTolerance = 5e-3;  // of the error itself

std::vector<ProblemOptions> problems() {
  return {{},
          {.correlated = false, .seed = 5},
          {.outputs = 7, .inputs = 33, .seed = 9},
          {.outputs = 5, .inputs = 300, .tokens = 600, .seed = 11},  // several blocks of sparsegpt
          {.outputs = 6, .inputs = 64, .tokens = 30, .seed = 13},    // fewer tokens than inputs
          {.dead_input = 3, .seed = 17}};
}

Mask magnitude_mask(const Problem& problem, const PruneTarget& target) {
  return make_selector("sort")->select(plain_scores(problem.weight.view()), target).mask;
}

double difference(ConstMatrixView found, const Doubles& expected) {
  double square = 0.0;
  double size = 0.0;
  for (std::int64_t r = 0; r < found.rows; ++r) {
    for (std::int64_t c = 0; c < found.cols; ++c) {
      square += std::pow(double{found.at(r, c)} - expected.at(r, c), 2);
      size += std::pow(expected.at(r, c), 2);
    }
  }
  return std::sqrt(square / size);
}

std::vector<PruneTarget> targets(std::int64_t inputs) {
  std::vector<PruneTarget> list{{.sparsity = 0.5}, {.sparsity = 0.7}};
  for (const char* pattern : {"2:4", "3:8", "2:3"}) {
    const Pattern parsed = parse_pattern(pattern);
    if (inputs % parsed.m == 0) list.push_back({.pattern = parsed});
  }
  return list;
}

TEST(Admm, FollowsTheFormulas) {
  for (const ProblemOptions& options : problems()) {
    const Problem problem = make_problem(options);
    for (const PruneTarget& target : targets(options.inputs)) {
      for (const auto& [steps, ramp] : {std::pair{20, 15}, std::pair{10, 8}, std::pair{1, 1}}) {
        const auto expected =
            testing::reference_admm(Doubles(problem.weight.view()), Doubles(problem.gram.view()),
                                    target.pattern, target.sparsity, steps, ramp);
        for (const Backend* backend : testing::backends()) {
          const auto refiner = make_refiner(fmt::format("admm({},{})", steps, ramp));
          const Refinement found = refine(*refiner, problem, target, nullptr, *backend);
          ASSERT_EQ(found.mask, expected.mask)
              << backend->name() << " seed " << options.seed << " steps " << steps;
          EXPECT_LT(difference(found.weight.view(), expected.weight), kWeightTolerance);
        }
      }
    }
  }
}

TEST(Admm, BeatsMagnitudeByFar) {
  const Problem problem = make_problem({.outputs = 16, .inputs = 96, .tokens = 400, .seed = 3});
  const PruneTarget target{.sparsity = 0.5};
  const Mask mask = magnitude_mask(problem, target);
  const auto& backend = *testing::backends()[1];
  const Refinement plain = refine(*make_refiner("none"), problem, target, &mask, backend);
  const Refinement admm = refine(*make_refiner("admm"), problem, target, nullptr, backend);
  EXPECT_LT(error_of(problem, admm.weight), 0.3 * error_of(problem, plain.weight));
}

TEST(Admm, PiecesGiveTheWhole) {
  const Problem problem = make_problem({});
  const auto& backend = *testing::backends()[1];
  const AdmmOptions options{.steps = 4, .ramp = 3};
  const AdmmGram gram = prepare_admm(problem.gram, options, backend, "layer");
  AdmmIteration iteration(problem.weight.view(), gram, options.rho, backend);
  for (int t = 0; t < 4; ++t) iteration.step({.sparsity = 0.5 * ramp_share(t, 3)});
  const Mask mask = iteration.mask();
  const Matrix weight = iteration.take_weight();
  const Refinement whole = refine(*make_refiner("admm(4,3)"), problem, {.sparsity = 0.5}, nullptr, backend);
  EXPECT_EQ(mask, whole.mask);
  EXPECT_TRUE(std::equal(weight.values().begin(), weight.values().end(), whole.weight.values().begin()));
}

// Cross moments and residual moments of inputs that differ from the dense model's by noise.
struct Alignment {
  Matrix cross;     // [I, I]
  Matrix residual;  // [O, I]
};
Alignment make_alignment(const Problem& problem) {
  const std::int64_t inputs = problem.gram.rows();
  Alignment alignment{problem.gram.clone(), Matrix(problem.weight.rows(), inputs)};
  const Matrix noise = testing::random_matrix(inputs, inputs, 41, 0.3f);
  const Matrix moved = testing::random_matrix(problem.weight.rows(), inputs, 42, 0.1f);
  const auto norm = [&](std::int64_t j) { return std::sqrt(problem.gram.at(j, j)); };
  for (std::int64_t j = 0; j < inputs; ++j) {
    for (std::int64_t i = 0; i < inputs; ++i) alignment.cross.at(i, j) += noise.at(i, j) * norm(i) * norm(j);
    for (std::int64_t r = 0; r < moved.rows(); ++r) alignment.residual.at(r, j) = moved.at(r, j) * norm(j);
  }
  return alignment;
}

Refinement refine_aligned(const Refiner& refiner, const Problem& problem, const Alignment& alignment,
                          const PruneTarget& target, const Backend& backend) {
  LayerStats stats = testing::stats_of(problem);
  stats.cross = &alignment.cross;
  stats.residual = &alignment.residual;
  RefineTask task;
  task.weight = problem.weight.view();
  task.target = target;
  return refiner.refine(task, *refiner.prepare(stats, backend, "layer"), backend);
}

TEST(AlignedAdmm, FollowsTheFormulas) {
  for (const ProblemOptions& options : problems()) {
    const Problem problem = make_problem(options);
    const Alignment alignment = make_alignment(problem);
    for (const PruneTarget& target : targets(options.inputs)) {
      for (const auto& [alpha, beta] : {std::pair{0.35, 0.5}, std::pair{1.0, 0.0}, std::pair{0.0, 1.0}}) {
        const auto expected = testing::reference_aligned_admm(
            Doubles(problem.weight.view()), Doubles(problem.gram.view()), Doubles(alignment.cross.view()),
            Doubles(alignment.residual.view()), alpha, beta, target.pattern, target.sparsity, 10, 8);
        const auto refiner = make_refiner(fmt::format("aligned-admm(10,8,{},{})", alpha, beta));
        for (const Backend* backend : testing::backends()) {
          const Refinement found = refine_aligned(*refiner, problem, alignment, target, *backend);
          ASSERT_EQ(found.mask, expected.mask) << backend->name() << " seed " << options.seed;
          EXPECT_LT(difference(found.weight.view(), expected.weight), kWeightTolerance);
        }
      }
    }
  }
}

// Without a second stream the target is the dense weight itself: admm, but for the scale of the rows.
TEST(AlignedAdmm, IsAdmmWithoutAlignment) {
  const Problem problem = make_problem({});
  const PruneTarget target{.sparsity = 0.5};
  const auto& backend = *testing::backends()[1];
  const Refinement plain = refine(*make_refiner("admm(10,8)"), problem, target, nullptr, backend);
  const Refinement aligned = refine(*make_refiner("aligned-admm(10,8)"), problem, target, nullptr, backend);
  EXPECT_EQ(aligned.mask, plain.mask);
  for (std::int64_t r = 0; r < plain.weight.rows(); ++r) {
    double scale = 0.0;
    for (std::int64_t j = 0; j < plain.weight.cols(); ++j) {
      if (!plain.mask.kept(r, j)) continue;
      const double ratio = double{aligned.weight.at(r, j)} / double{plain.weight.at(r, j)};
      if (scale == 0.0) scale = ratio;
      if (std::abs(plain.weight.at(r, j)) > 1e-3f) {
        EXPECT_NEAR(ratio, scale, 0.02 * scale);
      }
    }
    EXPECT_GE(scale, 0.7);
    EXPECT_LE(scale, 1.5);
  }
}

TEST(Pcg, FollowsTheFormulas) {
  for (const ProblemOptions& options : problems()) {
    const Problem problem = make_problem(options);
    for (const PruneTarget& target : targets(options.inputs)) {
      const Mask mask = magnitude_mask(problem, target);
      for (int steps : {1, 5, 20}) {
        const Doubles expected =
            testing::reference_pcg(Doubles(problem.weight.view()), Doubles(problem.gram.view()), mask, steps);
        for (const Backend* backend : testing::backends()) {
          const auto refiner = make_refiner(fmt::format("pcg({})", steps));
          const Refinement found = refine(*refiner, problem, target, &mask, *backend);
          EXPECT_EQ(found.mask, mask);
          EXPECT_LT(difference(found.weight.view(), expected),
                    steps < 20 ? kWeightTolerance : kLongPcgTolerance)
              << backend->name() << " seed " << options.seed << " steps " << steps;
          const double error =
              testing::error_of(Doubles(problem.weight.view()), expected, Doubles(problem.gram.view()));
          EXPECT_NEAR(error_of(problem, found.weight), error, kErrorTolerance * error);
          EXPECT_LE(error_of(problem, found.weight),
                    1.0001 * testing::error_of(Doubles(problem.weight.view()),
                                               testing::masked_by(Doubles(problem.weight.view()), mask),
                                               Doubles(problem.gram.view())));
        }
      }
    }
  }
}

// Full least squares on the support, solved exactly, is where the steps lead.
TEST(Pcg, ConvergesToLeastSquares) {
  const Problem problem = make_problem({.outputs = 3, .inputs = 24, .seed = 21});
  const PruneTarget target{.sparsity = 0.5};
  const Mask mask = magnitude_mask(problem, target);
  const Refinement found = refine(*make_refiner("pcg(200)"), problem, target, &mask, *testing::backends()[1]);
  Doubles gram(problem.gram.view());
  const double damping = 0.01 * testing::mean_diagonal(gram);
  for (std::int64_t j = 0; j < 24; ++j) gram.at(j, j) += damping;
  for (std::int64_t r = 0; r < 3; ++r) {
    std::vector<std::int64_t> kept;
    for (std::int64_t j = 0; j < 24; ++j) {
      if (mask.kept(r, j)) kept.push_back(j);
    }
    const auto size = std::ssize(kept);
    Doubles system(size, size);
    Doubles right(size, 1);
    for (std::int64_t i = 0; i < size; ++i) {
      for (std::int64_t k = 0; k < size; ++k) {
        system.at(i, k) = gram.at(kept[static_cast<std::size_t>(i)], kept[static_cast<std::size_t>(k)]);
      }
      for (std::int64_t j = 0; j < 24; ++j) {
        right.at(i, 0) += gram.at(kept[static_cast<std::size_t>(i)], j) * double{problem.weight.at(r, j)};
      }
    }
    const Doubles solution = testing::product(testing::inverse_of(system), right);
    for (std::int64_t i = 0; i < size; ++i) {
      EXPECT_NEAR(found.weight.at(r, kept[static_cast<std::size_t>(i)]), solution.at(i, 0), 2e-4);
    }
  }
}

TEST(Swaps, FollowTheFormulas) {
  for (const ProblemOptions& options : problems()) {
    const Problem problem = make_problem(options);
    for (const PruneTarget& target : targets(options.inputs)) {
      const Mask mask = magnitude_mask(problem, target);
      for (int swaps : {1, 6}) {
        const Mask expected = testing::reference_swaps(
            Doubles(problem.weight.view()), Doubles(problem.gram.view()), mask, target.pattern, swaps);
        for (const Backend* backend : testing::backends()) {
          const auto refiner = make_refiner(fmt::format("swaps({})", swaps));
          const Refinement found = refine(*refiner, problem, target, &mask, *backend);
          ASSERT_EQ(found.mask, expected)
              << backend->name() << " seed " << options.seed << " swaps " << swaps;
        }
      }
    }
  }
}

TEST(Swaps, ErrorNeverRisesAndWeightsStay) {
  for (const ProblemOptions& options : problems()) {
    const Problem problem = make_problem(options);
    for (const PruneTarget& target : targets(options.inputs)) {
      const Mask mask = magnitude_mask(problem, target);
      const auto& backend = *testing::backends()[1];
      double last = std::numeric_limits<double>::infinity();
      for (int swaps : {1, 2, 3, 5, 10, 50, 200}) {
        const auto refiner = make_refiner(fmt::format("swaps({})", swaps));
        const Refinement found = refine(*refiner, problem, target, &mask, backend);
        const double error = error_of(problem, found.weight);
        EXPECT_LE(error, last * (1.0 + 1e-6));
        last = error;
        for (std::int64_t r = 0; r < mask.rows(); ++r) {
          EXPECT_EQ(found.mask.num_kept(r), mask.num_kept(r));
          for (std::int64_t c = 0; c < mask.cols(); ++c) {
            EXPECT_EQ(found.weight.at(r, c), found.mask.kept(r, c) ? problem.weight.at(r, c) : 0.0f);
          }
        }
        EXPECT_TRUE(check_pattern(weight_view(found.weight.view()), target.pattern).holds);
      }
    }
  }
}

TEST(SparseGpt, FollowsTheAlgorithm) {
  for (const ProblemOptions& options : problems()) {
    const Problem problem = make_problem(options);
    for (const PruneTarget& target : targets(options.inputs)) {
      const std::int64_t total = total_prune_count(target, options.outputs, options.inputs);
      const auto expected = testing::reference_sparsegpt(Doubles(problem.weight.view()),
                                                         Doubles(problem.gram.view()), target.pattern, total);
      for (const Backend* backend : testing::backends()) {
        const Refinement found = refine(*make_refiner("sparsegpt"), problem, target, nullptr, *backend);
        ASSERT_EQ(found.mask, expected.mask) << backend->name() << " seed " << options.seed;
        EXPECT_LT(difference(found.weight.view(), expected.weight), kWeightTolerance);
        EXPECT_EQ(found.mask.rows() * found.mask.cols() - found.mask.num_kept(), total);
      }
    }
  }
}

TEST(Refiner, EveryPatternHoldsExactly) {
  const auto& backend = *testing::backends()[1];
  const Problem problem = make_problem({.outputs = 8, .inputs = 96, .seed = 2});
  std::vector<PruneTarget> list;
  for (std::int64_t m : {2, 3, 4, 6, 8, 12, 16, 24, 32}) {
    for (std::int64_t n = 1; n < m; n += std::max<std::int64_t>(1, m / 4)) {
      list.push_back({.pattern = {.kind = Pattern::Kind::kNofM, .n = n, .m = m}});
    }
  }
  for (const char* pattern : {"row", "layer", "block:4x8", "block:8x3"}) {
    for (double sparsity : {0.0, 0.3, 0.9}) {
      list.push_back({.pattern = parse_pattern(pattern),
                      .sparsity = sparsity,
                      .rounding = PruneTarget::Rounding::kExactTotal});
    }
  }
  std::vector<std::int64_t> counts{0, 10, 20, 30, 40, 50, 95, 96};
  list.push_back({.row_counts = counts});
  for (const PruneTarget& target : list) {
    const Mask mask = magnitude_mask(problem, target);
    for (const char* spec :
         {"none", "pcg(3)", "admm(4)", "sparsegpt", "swaps(4)", "admm(3)+pcg(2)", "swaps(3)+pcg(2)"}) {
      const bool block = target.pattern.kind == Pattern::Kind::kBlock;
      if (block && std::string_view(spec).starts_with("swaps")) continue;
      const Refinement found = refine(*make_refiner(spec), problem, target, &mask, backend);
      EXPECT_EQ(found.mask.num_kept(), mask.num_kept()) << spec << " " << format(target.pattern);
      EXPECT_TRUE(check_pattern(weight_view(found.weight.view()), target.pattern).holds) << spec;
      for (std::int64_t r = 0; r < 8; ++r) {
        if (!target.row_counts.empty() && std::string_view(spec) != "sparsegpt") {
          EXPECT_EQ(96 - found.mask.num_kept(r), counts[static_cast<std::size_t>(r)]) << spec;
        }
        for (std::int64_t c = 0; c < 96; ++c) {
          if (found.mask.kept(r, c)) continue;
          EXPECT_EQ(found.weight.at(r, c), 0.0f);
          EXPECT_FALSE(std::signbit(found.weight.at(r, c)));
        }
      }
    }
  }
}

TEST(Refiner, DegenerateGramsGiveFiniteWeights) {
  for (const Backend* backend : testing::backends()) {
    for (int kind = 0; kind < 4; ++kind) {
      Problem problem = make_problem({.outputs = 6, .inputs = 48, .seed = 31});
      if (kind == 0) std::fill(problem.gram.values().begin(), problem.gram.values().end(), 0.0f);  // all dead
      if (kind == 1) {  // rank one with large values
        for (std::int64_t i = 0; i < 48; ++i) {
          for (std::int64_t j = 0; j < 48; ++j)
            problem.gram.at(i, j) = 1e12f * static_cast<float>((i + 1) * (j + 1));
        }
      }
      if (kind == 2) {  // tiny values
        for (float& value : problem.gram.values()) value *= 1e-30f;
      }
      if (kind == 3) {  // not positive definite at all: only a large damping helps
        for (std::int64_t i = 0; i < 48; ++i) {
          for (std::int64_t j = 0; j < 48; ++j) problem.gram.at(i, j) = i == j ? 1.0f : -0.9f;
        }
      }
      const PruneTarget target{.sparsity = 0.5};
      const Mask mask = magnitude_mask(problem, target);
      for (const char* spec : {"pcg", "admm", "sparsegpt", "swaps", "admm+pcg", "aligned-admm"}) {
        const Refinement found = refine(*make_refiner(spec), problem, target, &mask, *backend);
        for (float value : found.weight.values()) ASSERT_TRUE(std::isfinite(value)) << spec << " " << kind;
        EXPECT_EQ(found.mask.num_kept(), mask.num_kept()) << spec << " " << kind;
        if (kind == 3 && (std::string_view(spec) == "admm" || std::string_view(spec) == "sparsegpt")) {
          EXPECT_GT(found.report.damping_raised, 0) << spec;
          EXPECT_GE(found.report.damping, 0.01 * std::pow(10.0, found.report.damping_raised) * 0.99) << spec;
        }
      }
    }
  }
}

TEST(Refiner, WhatIsNotFiniteIsNamed) {
  const auto& backend = *testing::backends()[1];
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const char* spec : {"none", "pcg", "admm", "sparsegpt", "swaps"}) {
    Problem problem = make_problem({});
    const PruneTarget target{.sparsity = 0.5, .tensor = "blocks.1.o_proj"};
    const Mask mask = magnitude_mask(problem, target);
    problem.weight.at(4, 7) = nan;
    try {
      refine(*make_refiner(spec), problem, target, &mask, backend);
      ADD_FAILURE() << spec;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
      EXPECT_THAT(error.what(), HasSubstr("blocks.1.o_proj"));
      EXPECT_THAT(error.what(), HasSubstr("row 4, column 7"));
    }
    if (!make_refiner(spec)->uses_gram()) continue;
    Problem bad_gram = make_problem({});
    bad_gram.gram.at(5, 2) = std::numeric_limits<float>::infinity();
    try {
      make_refiner(spec)->prepare(testing::stats_of(bad_gram), backend, "blocks.1.o_proj");
      ADD_FAILURE() << spec;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
      EXPECT_THAT(error.what(), HasSubstr("inputs 5 and 2"));
    }
  }
}

TEST(Refiner, SameBitsWithAnyNumberOfThreads) {
  const auto& backend = *testing::backends()[1];
  const Problem problem = make_problem({.outputs = 100, .inputs = 130, .tokens = 400, .seed = 41});
  for (const char* pattern : {"row", "layer", "1:2"}) {
    const PruneTarget target{.pattern = parse_pattern(pattern), .sparsity = 0.6};
    const Mask mask = magnitude_mask(problem, target);
    for (const char* spec :
         {"pcg(5)", "admm(6)", "aligned-admm(6)", "sparsegpt", "swaps(10)", "admm(4)+pcg(3)"}) {
      set_num_threads(1);
      const Refinement one = refine(*make_refiner(spec), problem, target, &mask, backend);
      for (int threads : {2, 3}) {
        set_num_threads(threads);
        const Refinement more = refine(*make_refiner(spec), problem, target, &mask, backend);
        EXPECT_EQ(more.mask, one.mask) << spec << " " << threads;
        EXPECT_TRUE(
            std::equal(one.weight.values().begin(), one.weight.values().end(), more.weight.values().begin()))
            << spec << " " << threads;
      }
    }
  }
  set_num_threads(0);
}

LayerStats gram_stats(const Problem& problem) {
  LayerStats stats;
  stats.num_tokens = 1;
  stats.gram = &problem.gram;
  return stats;
}

TEST(OutputError, IsRelativeToTheWholeOutput) {
  const auto& backend = *testing::backends()[1];
  const Problem problem = make_problem({.outputs = 9});
  const PruneTarget target{.sparsity = 0.5};
  const Mask mask = magnitude_mask(problem, target);
  const Doubles w(problem.weight.view());
  const Doubles g(problem.gram.view());
  const double whole = testing::error_of(w, Doubles(w.rows, w.cols), g);
  const Refinement plain = refine(*make_refiner("none"), problem, target, &mask, backend);
  const Refinement found = refine(*make_refiner("pcg"), problem, target, &mask, backend);
  const auto error = [&](const Matrix& pruned) {
    return output_error(problem.weight.view(), pruned.view(), gram_stats(problem), backend);
  };
  EXPECT_NEAR(*error(plain.weight), testing::error_of(w, testing::masked_by(w, mask), g) / whole, 1e-5);
  EXPECT_NEAR(*error(found.weight), error_of(problem, found.weight) / whole, 1e-5);
  EXPECT_DOUBLE_EQ(found.report.damping, 0.01);
  EXPECT_FALSE(output_error(problem.weight.view(), plain.weight.view(), {}, backend).has_value());
}

TEST(OutputError, IsThatOfEvenlySpreadRows) {
  const auto& backend = *testing::backends()[1];
  const Problem problem = make_problem({.outputs = 600, .inputs = 16});  // more than 512: every second row
  const PruneTarget target{.sparsity = 0.5};
  const Mask mask = magnitude_mask(problem, target);
  const Refinement found = refine(*make_refiner("pcg"), problem, target, &mask, backend);
  Doubles dense(300, 16);
  Doubles refined(300, 16);
  for (std::int64_t i = 0; i < 300; ++i) {
    for (std::int64_t j = 0; j < 16; ++j) {
      dense.at(i, j) = double{problem.weight.at(2 * i, j)};
      refined.at(i, j) = double{found.weight.at(2 * i, j)};
    }
  }
  const Doubles gram(problem.gram.view());
  EXPECT_NEAR(*output_error(problem.weight.view(), found.weight.view(), gram_stats(problem), backend),
              testing::error_of(dense, refined, gram) / testing::error_of(dense, Doubles(300, 16), gram),
              1e-6);
}

TEST(Swaps, RefuseBlocks) {
  const Problem problem = make_problem({});
  const PruneTarget target{.pattern = parse_pattern("block:4x8"), .sparsity = 0.5, .tensor = "t"};
  const Mask mask = magnitude_mask(problem, target);
  EXPECT_THROW(refine(*make_refiner("swaps"), problem, target, &mask, *testing::backends()[1]), Error);
}

TEST(Cholesky, GivesTheFactor) {
  for (const Backend* backend : testing::backends()) {
    for (std::int64_t n : {1, 2, 127, 128, 129, 300}) {
      const Problem problem =
          make_problem({.inputs = n, .tokens = 2 * n + 4, .correlated = false, .seed = 51});
      Matrix a = problem.gram.clone();
      ASSERT_TRUE(cholesky(a.view(), *backend));
      double worst = 0.0;
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
          if (j > i) {
            EXPECT_EQ(a.at(i, j), 0.0f);
          }
          double sum = 0.0;
          for (std::int64_t k = 0; k < n; ++k) sum += double{a.at(i, k)} * double{a.at(j, k)};
          worst = std::max(worst, std::abs(sum - double{problem.gram.at(i, j)}));
        }
      }
      EXPECT_LT(worst, 1e-5 * double{problem.gram.at(0, 0)} * static_cast<double>(n));
      Matrix bad = problem.gram.clone();
      bad.at(n - 1, n - 1) = -1.0f;
      EXPECT_FALSE(cholesky(bad.view(), *backend));
    }
  }
}

}  // namespace
}  // namespace swiftprune
