// Whole runs on the GPU against the CPU, over the tiny models of every family.
#include <cmath>

#include "cuda/gpu.h"
#include "model/family_fixture.h"
#include "support/collected_output.h"
#include "support/expect_error.h"
#include "support/forwards.h"
#include "support/gpu_models.h"
#include "support/random_windows.h"
#include "support/solved_levels.h"
#include "swiftprune/evaluation/perplexity.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

using test::expect_error;
using test::kModels;

using test::Collected;

struct Recipe {
  std::string score;
  std::string refine;
  std::string pattern;
  Propagation propagation;
};

class CudaPipelineTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { test::have_gpu(); }

  TokenWindows random_windows(std::int64_t windows, std::int64_t seqlen) const {
    return test::random_windows(*model_, windows, seqlen);
  }

  Plan plan(const Recipe& recipe) const {
    PlanDefaults defaults;
    defaults.pattern = parse_pattern(recipe.pattern);
    defaults.score = parse_score(recipe.score);
    defaults.refine = parse_refine(recipe.refine);
    return uniform_plan(*model_, defaults, {});
  }

  PruneResult run(const Recipe& recipe, const TokenWindows& windows, ComputeType compute, Collected& output,
                  std::uint64_t memory_bytes = 0) const {
    PruneOptions options;
    options.propagation = recipe.propagation;
    options.compute = compute;
    return prune(cuda::prune_shop({.memory_bytes = memory_bytes}), *model_, plan(recipe), windows, options,
                 output);
  }
  PruneResult run_on_cpu(const Recipe& recipe, const TokenWindows& windows, Collected& output) const {
    PruneOptions options;
    options.propagation = recipe.propagation;
    return prune(*model_, *cpu_, plan(recipe), windows, options, output);
  }

  // Has every linear whole tiles of so many rows and columns?
  bool has_whole_tiles(std::int64_t rows, std::int64_t cols) const {
    for (const BlockConfig& block : model_->config().blocks) {
      for (const LinearTensors& linear : linears_of(block)) {
        if (linear.outputs % rows != 0 || linear.inputs % cols != 0) return false;
      }
    }
    return true;
  }

  std::unique_ptr<Model> model_ = Model::open(kModels / GetParam());
  std::unique_ptr<Backend> cpu_ = make_cpu_backend();
};

TEST_P(CudaPipelineTest, PerplexityAgreesWithTheCpu) {
  // The first window is scored whole, of the others the second half.
  const TokenWindows windows = test::Expected(GetParam()).windows();
  ScoredWindows scored{windows, std::vector<std::int64_t>(static_cast<std::size_t>(windows.num_windows()),
                                                          std::max<std::int64_t>(1, windows.seqlen / 2))};
  scored.first_target.front() = 1;
  const std::vector<ScoredWindows> parts{std::move(scored)};
  const PerplexityResult expected = test::perplexity_of(*model_, *cpu_, parts);
  const Model* models[] = {model_.get()};
  const auto in_float = cuda::make_text_forwards(models, ComputeType::kF32, {});
  const PerplexityResult found = perplexity(*model_, *in_float, parts, {});
  ASSERT_EQ(found.window_nll.size(), expected.window_nll.size());
  EXPECT_EQ(found.num_tokens, expected.num_tokens);
  for (std::size_t w = 0; w < found.window_nll.size(); ++w) {
    EXPECT_NEAR(found.window_nll[w], expected.window_nll[w], 1e-4);
  }
  const auto in_half = cuda::make_text_forwards(models, ComputeType::kBF16, {});
  const PerplexityResult in_bf16 = perplexity(*model_, *in_half, parts, {});
  EXPECT_NEAR(in_bf16.mean_nll, expected.mean_nll, 0.02 * expected.mean_nll);
}

TEST_P(CudaPipelineTest, PruningAgreesWithTheCpu) {
  using enum Propagation;
  const std::int64_t seqlen = std::min<std::int64_t>(32, model_->config().max_positions);
  const TokenWindows windows = random_windows(5, seqlen);
  // Selections differ where two scores are closer than the rounding of the forward; a refinement's, where
  // weights of few tokens' statistics (160 here) are near a tie after twenty steps.
  for (const auto& [recipe, agreement] : {std::pair{Recipe{"magnitude", "none", "row", kDense}, 1.0},
                                          {Recipe{"magnitude", "none", "2:4", kDense}, 1.0},
                                          {Recipe{"wanda", "none", "row", kPruned}, 0.999},
                                          {Recipe{"contribution", "none", "row", kDense}, 0.999},
                                          {Recipe{"ria(0.7)", "none", "2:4", kDense}, 0.999},
                                          {Recipe{"stade", "none", "row", kDense}, 0.999},
                                          {Recipe{"paper", "none", "1:4", kPruned}, 0.999},
                                          {Recipe{"wanda", "admm(20,15)", "row", kPruned}, 0.96},
                                          {Recipe{"wanda", "aligned-admm(20,15)", "row", kPruned}, 0.95},
                                          {Recipe{"wanda", "aligned-admm(20,15)", "2:4", kPruned}, 0.94},
                                          {Recipe{"wanda", "aligned-admm(20,15)", "row", kDense}, 0.96},
                                          {Recipe{"magnitude", "none", "layer", kDense}, 1.0},
                                          {Recipe{"magnitude", "none", "block:4x4", kDense}, 1.0},
                                          {Recipe{"random(7)", "none", "row", kDense}, 1.0},
                                          {Recipe{"random(7)", "none", "block:4x4", kDense}, 1.0},
                                          {Recipe{"ria(0.7)", "none", "layer", kDense}, 0.999},
                                          {Recipe{"obs", "none", "row", kPruned}, 0.99},
                                          {Recipe{"wanda", "pcg(10)", "row", kPruned}, 0.998},
                                          {Recipe{"wanda", "swaps(20)", "row", kPruned}, 0.99},
                                          {Recipe{"wanda", "swaps(20)", "2:4", kPruned}, 0.99},
                                          {Recipe{"wanda", "sparsegpt", "row", kPruned}, 0.96},
                                          {Recipe{"wanda", "sparsegpt", "2:4", kPruned}, 0.96},
                                          {Recipe{"wanda", "admm(10,8)+pcg(5)", "row", kPruned}, 0.96},
                                          {Recipe{"wanda", "aligned-admm(10,8)", "layer", kPruned}, 0.96}}) {
    if (recipe.pattern.ends_with(":4") && !has_whole_tiles(1, 4)) continue;
    if (recipe.pattern.ends_with("4x4") && !has_whole_tiles(4, 4)) continue;
    Collected expected(model_->checkpoint());
    Collected found(model_->checkpoint());
    const PruneResult on_cpu = run_on_cpu(recipe, windows, expected);
    const PruneResult result = run(recipe, windows, ComputeType::kF32, found);
    const std::string what = recipe.score + " " + recipe.refine + " " + recipe.pattern;
    ASSERT_EQ(result.tensors.size(), on_cpu.tensors.size()) << what;
    for (std::size_t i = 0; i < result.tensors.size(); ++i) {
      const TensorResult& a = on_cpu.tensors[i];
      const TensorResult& b = result.tensors[i];
      ASSERT_EQ(a.error.has_value(), b.error.has_value()) << what << " " << a.name;
      // Behind refined blocks the inputs differ as the weights do.
      const double share = recipe.refine == "none" ? 0.01 : agreement >= 0.99 ? 0.08 : 0.35;
      const double tolerance = share * a.error.value_or(0.0) + 1e-5;
      EXPECT_NEAR(b.error.value_or(0.0), a.error.value_or(0.0), tolerance) << what << " " << a.name;
    }
    ASSERT_EQ(found.tensors.size(), expected.tensors.size()) << what;
    std::int64_t same = 0;
    std::int64_t total = 0;
    std::int64_t zeros = 0;
    for (const auto& [name, bytes] : expected.tensors) {
      const std::vector<float> a = expected.values(name);
      const std::vector<float> b = found.values(name);
      ASSERT_EQ(a.size(), b.size());
      for (std::size_t i = 0; i < a.size(); ++i) {
        same += (a[i] == 0.0f) == (b[i] == 0.0f) ? 1 : 0;
        zeros += b[i] == 0.0f ? 1 : 0;
      }
      total += static_cast<std::int64_t>(a.size());
      if (agreement == 1.0) {
        EXPECT_EQ(bytes, found.tensors.at(name)) << name;
      }
    }
    EXPECT_GE(static_cast<double>(same), agreement * static_cast<double>(total)) << what;
    EXPECT_NEAR(result.sparsity, static_cast<double>(zeros) / static_cast<double>(total), 1e-12) << what;
  }
}

TEST_P(CudaPipelineTest, EqualRunsGiveEqualBytes) {
  const std::int64_t seqlen = std::min<std::int64_t>(32, model_->config().max_positions);
  const TokenWindows windows = random_windows(3, seqlen);
  const Recipe recipe{"wanda", "aligned-admm(20,15)", "row", Propagation::kPruned};
  Collected one(model_->checkpoint());
  Collected two(model_->checkpoint());
  run(recipe, windows, ComputeType::kBF16, one);
  run(recipe, windows, ComputeType::kBF16, two, std::uint64_t{200} << 20);
  EXPECT_EQ(one.tensors, two.tensors);
}

// Blocks that a killed run has written are passed through; the rest comes out as if it had never been killed.
TEST_P(CudaPipelineTest, AResumedRunGivesEqualBytes) {
  const std::int64_t seqlen = std::min<std::int64_t>(32, model_->config().max_positions);
  const TokenWindows windows = random_windows(3, seqlen);
  for (const Recipe& recipe : {Recipe{"wanda", "aligned-admm(8,6)", "row", Propagation::kPruned},
                               Recipe{"wanda", "none", "row", Propagation::kPruned},
                               Recipe{"wanda", "none", "row", Propagation::kDense}}) {
    Collected whole(model_->checkpoint());
    const PruneResult expected = run(recipe, windows, ComputeType::kBF16, whole);
    const std::int64_t layers = model_->config().num_layers();
    ASSERT_EQ(std::ssize(whole.finished), layers);
    for (std::int64_t done = 1; done <= layers; ++done) {
      PruneOptions options;
      options.propagation = recipe.propagation;
      options.compute = ComputeType::kBF16;
      options.finished = {whole.finished.begin(), whole.finished.begin() + done};
      Collected resumed(model_->checkpoint());
      for (const FinishedBlock& block : options.finished) {
        EXPECT_EQ(block.layer, &block - options.finished.data());
        for (const TensorResult& tensor : block.tensors)
          resumed.tensors[tensor.name] = whole.tensors.at(tensor.name);
      }
      const PruneResult result =
          prune(cuda::prune_shop({}), *model_, plan(recipe), windows, options, resumed);
      EXPECT_EQ(result.resumed_blocks, done);
      EXPECT_EQ(result.sparsity, expected.sparsity);
      EXPECT_EQ(result.weights_changed, expected.weights_changed);
      EXPECT_EQ(std::ssize(resumed.finished), layers - done);
      EXPECT_EQ(resumed.tensors, whole.tensors) << recipe.refine << " behind block " << done;
    }
  }
}

TEST_P(CudaPipelineTest, TooLittleMemoryIsADeviceError) {
  const TokenWindows windows = random_windows(3, 8);
  Collected output(model_->checkpoint());
  expect_error(
      ErrorKind::kDevice,
      [&] {
        run({"wanda", "none", "row", Propagation::kPruned}, windows, ComputeType::kF32, output,
            (std::uint64_t{32} << 20) + 4096);
      },
      "--gpu-memory");
}

// Twice wanda's factors, which order alike to the bit.
const ScoreKind kExercise{.name = "exercise",
                          .summary = "2·|w|·√e_j",
                          .source = "this test",
                          .needs = {.energy = true},
                          .from_statistics = [](const ScoreInput& input) {
                            Scores scores;
                            scores.column = column_factors(input.num_inputs, [&](std::size_t j) {
                              return 2.0 * std::sqrt(input.stats.energy[j]);
                            });
                            return scores;
                          }};

TEST_P(CudaPipelineTest, AScoreOfTheStatisticsThatNoListKnowsRuns) {
  const TokenWindows windows = random_windows(2, 16);
  Plan exercise = plan({"wanda", "none", "row", Propagation::kDense});
  for (PlanEntry& entry : exercise.entries) entry.score = ScoreSpec(kExercise);
  PruneOptions options;
  options.propagation = Propagation::kDense;
  Collected found(model_->checkpoint());
  prune(cuda::prune_shop({}), *model_, exercise, windows, options, found);
  Collected expected(model_->checkpoint());
  run({"wanda", "none", "row", Propagation::kDense}, windows, ComputeType::kF32, expected);
  EXPECT_EQ(found.tensors, expected.tensors);
}

TEST_P(CudaPipelineTest, WhatOnlyTheCpuDoesIsAUsageError) {
  const auto device = open_device("cuda");
  const auto refuses = [&](const Recipe& recipe, const PruneOptions& options) {
    expect_error(
        ErrorKind::kUsage, [&] { device->check_plan(*model_, plan(recipe), options); }, "--device cpu");
  };
  if (has_whole_tiles(1, 2)) refuses({"wanda", "sparsegpt", "block:1x2", Propagation::kDense}, {});
  PruneOptions options;
  options.select = SelectKind::kEwma;
  refuses({"wanda", "none", "row", Propagation::kDense}, options);
}

TEST(CudaLevelsTest, AreSolvedBesideThePlan) {
  if (!test::have_gpu()) return;
  const auto model = Model::open(kModels / "llama2");
  for (const char* refine : {"none", "aligned-admm(6,4)", "admm(6,4)+pcg(2)"}) {
    for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
      SCOPED_TRACE(refine);
      test::expect_levels_beside(
          *model, refine, test::random_windows(*model, 3, 24),
          [&](const Plan& plan, const TokenWindows& windows, PruneOptions options, PruneOutput& output) {
            options.compute = compute;
            return prune(cuda::prune_shop({}), *model, plan, windows, options, output);
          });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, CudaPipelineTest, ::testing::ValuesIn(test::gpu_model_names()),
                         [](const auto& family) { return family.param; });

}  // namespace
}  // namespace swiftprune
