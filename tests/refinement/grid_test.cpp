// Weights on grids of few bits: the column pass against the textbook's elimination in double, what the descent
// promises, and how far the solver is ahead of the baselines on the same statistics.
#include <array>
#include <cmath>

#include <gtest/gtest.h>

#include "refinement/double_reference.h"
#include "support/expect_error.h"
#include "support/problem.h"
#include "support/spec_text.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/masking/apply_mask.h"
#include "swiftprune/refinement/grid_solver.h"
#include "swiftprune/selection/selector.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

using testing::Doubles;
using testing::make_problem;
using testing::Problem;

const Backend& cpu() {
  static const auto backend = make_cpu_backend();
  return *backend;
}

QuantGrid grid_of(std::string_view text) { return parse_grid(text, "test"); }

Mask all_kept(std::int64_t rows, std::int64_t cols) {
  Mask mask(rows, cols);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t j = 0; j < cols; ++j) mask.keep(r, j);
  return mask;
}

Mask mask_for(const Problem& problem, const PruneTarget& target) {
  return make_selector("sort")->select(plain_scores(problem.weight.view()), target).mask;
}

Refinement solve(const char* refine, const Problem& problem, const PruneTarget& target, const Mask* mask,
                 const QuantGrid& grid) {
  const auto refiner = make_refiner(refine);
  const auto prepared = refiner->prepare(testing::stats_of(problem), cpu(), "layer", {.grid = true});
  RefineTask task;
  task.weight = problem.weight.view();
  task.mask = mask;
  task.target = target;
  task.grid = grid;
  return refiner->refine(task, *prepared, cpu());
}

std::vector<PruneTarget> grid_targets() {
  return {{.sparsity = 0.0},
          {.sparsity = 0.5},
          {.pattern = parse_pattern("2:4")},
          {.pattern = parse_pattern("block:4x8"),
           .sparsity = 0.5,
           .rounding = PruneTarget::Rounding::kExactTotal}};
}

TEST(GridText, ReadsWhatItPrints) {
  for (const char* text :
       {"int4(64)", "int3(32)", "int8(row)", "int4(128,asymmetric)", "int3(row,asymmetric)"})
    EXPECT_EQ(format(grid_of(text)), text);
  EXPECT_EQ(grid_of("int4"), (QuantGrid{.bits = 4, .group = 64}));
  for (const char* text :
       {"", "int5", "int4(", "int4()", "int4(48)", "int4(64,)", "int4(64,odd)", "int4(64)x", "4"})
    test::expect_error(
        ErrorKind::kUsage, [&] { parse_grid(text, "--quantize"); }, "--quantize", "int4");
  EXPECT_DOUBLE_EQ(bits_per_weight(grid_of("int4(64)"), 576), 4.25);
  EXPECT_DOUBLE_EQ(bits_per_weight(grid_of("int4(32,asymmetric)"), 576), 4.625);
}

// By hand: the largest is 3, 15 steps reach from -8 to 7 of 0.4.
TEST(Rtn, IsTheNearestValueOfTheRange) {
  Problem problem;
  problem.weight = Matrix::zeros(1, 4);
  const float weights[] = {3.0f, -1.1f, 0.25f, -0.1f};
  std::copy_n(weights, 4, problem.weight.data());
  const Mask mask = all_kept(1, 4);
  const Refinement found = solve("rtn", problem, {}, &mask, grid_of("int4(row)"));
  const float scale = f16_to_f32(f32_to_f16(0.4f));
  for (int j = 0; j < 4; ++j)
    EXPECT_EQ(found.weight.at(0, j), scale * (std::array{7.0f, -3.0f, 1.0f, 0.0f})[j]);
  // From -1.1 to 3 in 15 steps of 0.2733; zero is code 4.
  const Refinement wide = solve("rtn", problem, {}, &mask, grid_of("int4(row,asymmetric)"));
  EXPECT_EQ(wide.quantized->zeros, (std::vector<std::uint8_t>{4}));
  EXPECT_EQ(wide.quantized->codes, (std::vector<std::uint8_t>{15, 0, 5, 4}));
}

TEST(GridSearch, FindsALowerErrorThanTheRange) {
  const Matrix w = testing::random_matrix(20, 64, 3, 0.05f);
  const std::vector<float> importance(64, 1.0f);
  for (const char* text : {"int3(64)", "int4(64)", "int4(64,asymmetric)"}) {
    double searched = 0.0, ranged = 0.0;
    for (std::int64_t r = 0; r < 20; ++r) {
      const std::span<const float> row{w.row(r), 64};
      const auto add = [&](const GroupGrid& group, double& sum) {
        EXPECT_TRUE(group.scale > 0.0f && group.lowest <= 0.0f && group.highest >= 0.0f);
        EXPECT_EQ(f16_to_f32(f32_to_f16(group.scale)), group.scale);
        for (const float value : row) sum += std::pow(double{value} - double{on_grid(group, value)}, 2);
      };
      add(searched_grid(row, importance, grid_of(text)), searched);
      add(range_grid(row, grid_of(text)), ranged);
    }
    EXPECT_LT(searched, 0.95 * ranged) << text;
  }
  const std::vector<float> zeros(64, 0.0f);
  EXPECT_GT(searched_grid(zeros, importance, grid_of("int4")).scale, 0.0f);
}

// Rounds a column, spreads its error by the inverse, takes the column out of the inverse: in double.
Doubles textbook_pass(const GridGram& gram, const Mask& mask, const GridWeight& start) {
  const std::int64_t n = gram.quadratic.rows();
  Doubles inverse = testing::inverse_of(Doubles(gram.quadratic.view()));
  Doubles w(start.values.view());
  for (const std::int64_t p : gram.order) {
    for (std::int64_t r = 0; r < w.rows; ++r) {
      const GroupGrid& group = start.at(r, start.group_of(p));
      const double code = std::nearbyint(
          std::clamp(w.at(r, p) / double{group.scale}, double{group.lowest}, double{group.highest}));
      const double error = w.at(r, p) - (mask.kept(r, p) ? code * double{group.scale} : 0.0);
      for (std::int64_t j = 0; j < n; ++j)
        if (j != p) w.at(r, j) -= error * inverse.at(p, j) / inverse.at(p, p);
      w.at(r, p) -= error;
    }
    const Doubles before = inverse;
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j)
        inverse.at(i, j) -= before.at(i, p) * before.at(p, j) / before.at(p, p);
    for (std::int64_t j = 0; j < n; ++j) inverse.at(p, j) = inverse.at(j, p) = 0.0;
  }
  return w;
}

TEST(GridColumnsPass, IsTheTextbooks) {
  for (const ColumnOrder order : {ColumnOrder::kAsTheyAre, ColumnOrder::kByDiagonal}) {
    const Problem problem = make_problem({.outputs = 6, .inputs = 192, .tokens = 500, .seed = 21});
    const std::vector<float> norm(192, 3.0f);
    const GridGram gram = prepare_grid(problem.gram, norm, 0.5, order, cpu(), "layer");
    const Mask mask = mask_for(problem, {.sparsity = 0.25});
    GridWeight weight(grid_of("int4(32)"), 6, 192);
    std::copy_n(problem.weight.data(), problem.weight.numel(), weight.values.data());
    set_range_grids(weight);
    const Doubles expected = textbook_pass(gram, mask, weight);
    round_columns(gram, &mask, GroupScales::kGiven, weight, cpu());
    std::int64_t different = 0;  // near-ties, and what follows from them in the row
    for (std::int64_t r = 0; r < 6; ++r)
      for (std::int64_t j = 0; j < 192; ++j)
        different += std::abs(double{weight.values.at(r, j)} - expected.at(r, j)) > 1e-5;
    EXPECT_LE(different, 6 * 192 / 50);
  }
}

// No code that could be one higher or lower makes the error in double smaller; the descent only lowers it.
TEST(GridSolver, EndsWhereNoSingleCodeCanMove) {
  const Problem problem = make_problem({.outputs = 6, .inputs = 96, .tokens = 300, .seed = 31});
  std::vector<float> norm(96);
  for (std::int64_t j = 0; j < 96; ++j) norm[static_cast<std::size_t>(j)] = std::sqrt(problem.gram.at(j, j));
  const GridGram gram = prepare_grid(problem.gram, norm, 0.01, ColumnOrder::kByDiagonal, cpu(), "layer");
  Matrix target(6, 96);
  cpu().matmul(problem.weight.view(), gram.quadratic.view(), 1.0f, 0.0f, target.view());
  for (const char* text : {"int4(32)", "int3(32,asymmetric)"}) {
    Mask mask = mask_for(problem, {.sparsity = 0.5});
    const Matrix start =
        solve("admm", problem, {.sparsity = 0.5}, nullptr, grid_of("int8(row)")).weight.clone();
    for (std::int64_t r = 0; r < 6; ++r)
      for (std::int64_t j = 0; j < 96; ++j) start.at(r, j) != 0.0f ? mask.keep(r, j) : mask.prune(r, j);
    GridWeight passed(grid_of(text), 6, 96);
    std::copy_n(start.data(), start.numel(), passed.values.data());
    for (std::int64_t r = 0; r < 6; ++r)
      for (std::int64_t g = 0; g < 3; ++g)
        passed.at(r, g) =
            searched_grid({start.row(r) + g * 32, 32}, std::vector<float>(32, 1.0f), grid_of(text));
    round_columns(gram, &mask, GroupScales::kGiven, passed, cpu());
    std::vector<std::int64_t> kept;
    for (std::int64_t r = 0; r < 6; ++r) kept.push_back(mask.num_kept(r));
    const GridWeight solved =
        solve_on_grid(start.view(), mask, {}, target.view(), gram, grid_of(text), cpu());
    const Doubles h(gram.quadratic.view()), t(target.view());
    const auto errors = [&](const Matrix& values) {
      return grid_errors(values.view(), target.view(), gram, cpu());
    };
    const std::vector<double> before = errors(passed.values), after = errors(solved.values);
    std::int64_t movable = 0;
    for (std::int64_t r = 0; r < 6; ++r) {
      EXPECT_EQ(mask.num_kept(r), kept[static_cast<std::size_t>(r)]);
      EXPECT_LT(after[static_cast<std::size_t>(r)], before[static_cast<std::size_t>(r)]) << text << " " << r;
      for (std::int64_t j = 0; j < 96; ++j) {
        if (!mask.kept(r, j)) {
          EXPECT_EQ(solved.values.at(r, j), 0.0f);
          continue;
        }
        double slope = -t.at(r, j);
        for (std::int64_t i = 0; i < 96; ++i) slope += double{solved.values.at(r, i)} * h.at(i, j);
        const GroupGrid& group = solved.at(r, solved.group_of(j));
        for (const double step : {-double{group.scale}, double{group.scale}}) {
          const double code = std::nearbyint((double{solved.values.at(r, j)} + step) / double{group.scale});
          if (code < double{group.lowest} || code > double{group.highest}) continue;
          movable += step * (step * h.at(j, j) + 2.0 * slope) < -1e-3 * step * step * h.at(j, j);
        }
      }
    }
    EXPECT_LE(movable, 3) << text;  // exchanges come after the last sweep
  }
}

TEST(Grids, EveryRefinementKeepsGridAndPattern) {
  const Problem problem = make_problem({.outputs = 8, .inputs = 128, .tokens = 300, .seed = 2});
  for (const char* text : {"int8(row)", "int4(64)", "int3(32)", "int4(128,asymmetric)"}) {
    const QuantGrid grid = grid_of(text);
    for (const PruneTarget& target : grid_targets()) {
      const Mask mask = mask_for(problem, target);
      for (const char* refine : {"rtn", "gptq", "gptq(0.01,1)", "sparsegpt", "admm(6)", "aligned-admm(6)",
                                 "admm(6)+gptq", "swaps+rtn"}) {
        const std::string what = fmt::format("{} {} {}", refine, text, format(target.pattern));
        if (target.pattern.kind == Pattern::Kind::kBlock && std::string_view(refine).starts_with("swaps"))
          continue;
        const Refinement found = solve(refine, problem, target, &mask, grid);
        ASSERT_TRUE(found.quantized) << what;
        const QuantizedWeight& q = *found.quantized;
        EXPECT_EQ(q.grid, grid);
        const Matrix values = dequantize(q);
        for (std::int64_t i = 0; i < values.numel(); ++i)
          ASSERT_EQ(values.values()[static_cast<std::size_t>(i)],
                    found.weight.values()[static_cast<std::size_t>(i)]);
        for (const std::uint8_t code : q.codes) ASSERT_LT(int{code}, grid.num_codes()) << what;
        for (const std::uint8_t zero : q.zeros) ASSERT_LT(int{zero}, grid.num_codes()) << what;
        ASSERT_EQ(q.zeros.size(), grid.asymmetric ? q.scales.size() : 0u);
        for (const std::uint16_t scale : q.scales) {
          ASSERT_GT(f16_to_f32(scale), 0.0f);
          ASSERT_TRUE(std::isfinite(f16_to_f32(scale)));
        }
        EXPECT_EQ(found.mask.num_kept(), mask.num_kept()) << what;
        for (std::int64_t r = 0; r < 8; ++r) {
          for (std::int64_t j = 0; j < 128; ++j) {
            if (found.mask.kept(r, j)) continue;
            ASSERT_EQ(values.at(r, j), 0.0f) << what;
          }
        }
        EXPECT_TRUE(check_pattern(weight_view(values.view()), target.pattern).holds) << what;
      }
    }
  }
}

TEST(Grids, TheSolverIsAheadOfTheBaselines) {
  for (const unsigned seed : {3u, 23u}) {
    const Problem problem = make_problem({.outputs = 16, .inputs = 256, .tokens = 1000, .seed = seed});
    for (const char* text : {"int4(64)", "int3(64)", "int4(32,asymmetric)", "int8(row)"}) {
      for (const PruneTarget& target : grid_targets()) {
        const auto error = [&](const char* refine) {
          const Mask mask = mask_for(problem, target);
          return error_of(problem, solve(refine, problem, target, &mask, grid_of(text)).weight);
        };
        const std::string what =
            fmt::format("{} {} {} seed {}", text, format(target.pattern), target.sparsity, seed);
        const double ours = error("admm");
        const double gptq = std::min(error("admm+gptq"), error("admm+gptq(0.01,1)"));
        EXPECT_LT(ours, gptq) << what;
        EXPECT_LT(ours, error("admm+rtn")) << what;
        EXPECT_LT(ours, error("sparsegpt")) << what;
        if (target.sparsity == 0.0 && target.pattern.kind == Pattern::Kind::kRow) {
          EXPECT_LT(ours, 0.9 * gptq) << what;
        }
      }
    }
  }
}

TEST(Grids, SameBitsWithAnyNumberOfThreads) {
  const Problem problem = make_problem({.outputs = 70, .inputs = 192, .tokens = 400, .seed = 8});
  for (const char* refine : {"aligned-admm(6)", "gptq", "sparsegpt"}) {
    const PruneTarget target{.sparsity = 0.5};
    const Mask mask = mask_for(problem, target);
    set_num_threads(1);
    const Refinement one = solve(refine, problem, target, &mask, grid_of("int4(64)"));
    set_num_threads(3);
    const Refinement three = solve(refine, problem, target, &mask, grid_of("int4(64)"));
    set_num_threads(0);
    EXPECT_EQ(one.quantized->codes, three.quantized->codes) << refine;
    EXPECT_EQ(one.quantized->scales, three.quantized->scales) << refine;
  }
}

// Inputs that are never used, fewer tokens than inputs, rows of zeros.
TEST(Grids, DegenerateProblemsGiveCodes) {
  for (const testing::ProblemOptions& options :
       {testing::ProblemOptions{.outputs = 6, .inputs = 64, .tokens = 20, .seed = 13},
        testing::ProblemOptions{.inputs = 64, .dead_input = 3, .seed = 17}}) {
    Problem problem = make_problem(options);
    std::fill_n(problem.weight.row(1), 64, 0.0f);
    for (const char* refine : {"rtn", "gptq", "sparsegpt", "admm", "aligned-admm"}) {
      const PruneTarget target{.sparsity = 0.5};
      const Mask mask = mask_for(problem, target);
      const Refinement found = solve(refine, problem, target, &mask, grid_of("int4(32)"));
      for (std::int64_t j = 0; j < 64; ++j) EXPECT_EQ(found.weight.at(1, j), 0.0f) << refine;
    }
  }
}

TEST(Grids, RefuseGroupsThatDoNotFit) {
  const Problem problem = make_problem({.inputs = 96});
  const Mask mask = all_kept(12, 96);
  test::expect_error(
      ErrorKind::kBadInput, [&] { solve("rtn", problem, {}, &mask, grid_of("int4(64)")); }, "96", "32");
}

}  // namespace
}  // namespace swiftprune
