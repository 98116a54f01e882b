// Weights of experts that are pruned on the GPU against the CPU, over the tiny models of every family with experts.
#include <algorithm>
#include <cmath>

#include "cuda/gpu.h"
#include "model/family_fixture.h"
#include "support/gpu_models.h"
#include "support/prune_to_folder.h"
#include "support/temp_dir.h"
#include "swiftprune/masking/apply_mask.h"
#include "swiftprune/pipeline/grid_output.h"
#include "swiftprune/pipeline/method.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace swiftprune {
namespace {

using test::Killed;
using test::stored_values;
using test::TempDir;

struct Recipe {
  const char* score;
  const char* refine;
  const char* pattern;
  Propagation propagation;
  double agreement;  // share of weights that are zero, or not, on both
};

class CudaPruneExpertsTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!test::have_gpu()) return;
    if (GetParam() == "gpt_oss_mxfp4") GTEST_SKIP() << "is not written";
  }

  // Of the pattern 2:4, what has no whole groups.
  std::vector<std::string> odd_widths(const Recipe& recipe) const {
    std::vector<std::string> names;
    if (!std::string_view(recipe.pattern).ends_with(":4")) return names;
    for (const BlockConfig& block : model_->config().blocks) {
      for (const LinearTensors& linear : linears_of(block))
        if (linear.inputs % 4 != 0) names.push_back(linear.name + ".weight");
    }
    return names;
  }
  Plan plan(const Recipe& recipe, const std::vector<std::string>& skip = {}) const {
    PlanDefaults defaults;
    defaults.pattern = parse_pattern(recipe.pattern);
    defaults.score = parse_score(recipe.score);
    defaults.refine = parse_refine(recipe.refine);
    return uniform_plan(*model_, defaults, skip);
  }
  PruneResult run(bool on_gpu, const Plan& plan, const Recipe& recipe, const std::string& name,
                  ComputeType compute = ComputeType::kF32, const test::PruneToFolder& how = {}) const {
    PruneOptions options;
    options.propagation = recipe.propagation;
    options.compute = compute;
    options.min_expert_tokens = min_tokens_;
    return test::prune_to_folder(on_gpu ? cuda::prune_shop({}) : cpu_prune_shop(*cpu_), *model_, plan,
                                 windows_, options, dir_.path() / name, how);
  }
  Checkpoint result(const std::string& name) const { return Checkpoint::open(dir_.path() / name); }

  TempDir dir_;
  std::int64_t min_tokens_ = 4;
  std::unique_ptr<Model> model_ = Model::open(test::model_folder(GetParam()));
  std::unique_ptr<Backend> cpu_ = make_cpu_backend();
  TokenWindows windows_ = test::Expected(GetParam()).windows();
};

TEST_P(CudaPruneExpertsTest, AgreesWithTheCpu) {
  using enum Propagation;
  for (const Recipe& recipe :
       {Recipe{"magnitude", "none", "2:4", kDense, 1.0}, Recipe{"wanda", "none", "row", kPruned, 0.999},
        Recipe{"ria", "none", "2:4", kDense, 0.999}, Recipe{"contribution", "none", "row", kPruned, 0.998},
        Recipe{"wanda", "sparsegpt", "2:4", kPruned, 0.95},
        Recipe{"wanda", "admm(10,8)", "row", kPruned, 0.93},
        Recipe{"wanda", "aligned-admm(10,8)", "row", kPruned, 0.93}}) {
    SCOPED_TRACE(std::string(recipe.score) + " " + recipe.refine + " " + recipe.pattern);
    const Plan plan = this->plan(recipe, odd_widths(recipe));
    const std::string name = std::string(recipe.score) + recipe.refine;
    const PruneResult expected = run(false, plan, recipe, "cpu_" + name);
    const PruneResult found = run(true, plan, recipe, "gpu_" + name);
    ASSERT_EQ(found.tensors.size(), expected.tensors.size());
    double on_cpu_error = 0.0, on_gpu_error = 0.0;
    struct {
      double by = 0.0;
      std::string tensor;
    } widest;
    for (std::size_t i = 0; i < found.tensors.size(); ++i) {
      const TensorResult &a = expected.tensors[i], &b = found.tensors[i];
      EXPECT_EQ(b.name, a.name);
      ASSERT_EQ(b.error.has_value(), a.error.has_value()) << a.name;
      on_cpu_error += a.error.value_or(0.0);
      on_gpu_error += b.error.value_or(0.0);
      if (std::abs(b.error.value_or(0.0) - a.error.value_or(0.0)) > std::abs(widest.by))
        widest = {b.error.value_or(0.0) - a.error.value_or(0.0), a.name};
      // An expert of a few tokens is refined to an error that is next to nothing, of which all is rounding.
      if (recipe.agreement < 0.99) continue;
      EXPECT_NEAR(b.error.value_or(0.0), a.error.value_or(0.0), 0.02 * a.error.value_or(0.0) + 1e-5)
          << a.name;
    }
    EXPECT_NEAR(on_gpu_error, on_cpu_error, 0.15 * on_cpu_error + 1e-5)
        << "most by " << widest.tensor << ": " << widest.by;
    ASSERT_EQ(found.expert_tokens.size(), expected.expert_tokens.size());
    const Checkpoint on_cpu = result("cpu_" + name), on_gpu = result("gpu_" + name);
    double same = 0.0, all = 0.0;
    for (const PlanEntry& entry : plan.entries) {
      const std::vector<float> x = stored_values(on_cpu, entry.tensor);
      std::vector<float> y = stored_values(on_gpu, entry.tensor);
      const ConstMatrixView weight{y.data(), entry.rows, entry.cols, entry.cols};
      EXPECT_TRUE(!entry.prune || check_pattern(weight_view(weight), entry.pattern).holds) << entry.tensor;
      for (std::size_t i = 0; i < x.size(); ++i) same += (x[i] == 0.0f) == (y[i] == 0.0f) ? 1.0 : 0.0;
      all += entry.num_weights();
      if (recipe.agreement == 1.0) {
        EXPECT_EQ(x, y) << entry.tensor;
      }
    }
    EXPECT_GE(same / all, recipe.agreement);
  }
}

// Their own tokens where there are enough, else those of all; the counts are the CPU's.
TEST_P(CudaPruneExpertsTest, FewTokensAreAllTokens) {
  const Recipe recipe{"wanda", "none", "row", Propagation::kPruned, 0.999};
  Plan plan = this->plan(recipe);
  std::int64_t layer = 0;
  while (!model_->config().blocks[static_cast<std::size_t>(layer)].experts) ++layer;
  for (PlanEntry& entry : plan.entries) entry.prune = entry.layer == layer && entry.expert >= 0;
  for (const std::int64_t least : {std::int64_t{1}, std::int64_t{1} << 40}) {
    min_tokens_ = least;
    const std::string name = std::to_string(least);
    const PruneResult expected = run(false, plan, recipe, "cpu" + name);
    const PruneResult found = run(true, plan, recipe, "gpu" + name);
    ASSERT_EQ(found.expert_tokens.size(), 1u);
    EXPECT_EQ(found.expert_tokens.front().tokens, expected.expert_tokens.front().tokens);
    double same = 0.0, all = 0.0;
    const Checkpoint on_cpu = result("cpu" + name), on_gpu = result("gpu" + name);
    for (const PlanEntry& entry : plan.entries) {
      if (!entry.prune) continue;
      const std::vector<float> x = stored_values(on_cpu, entry.tensor),
                               y = stored_values(on_gpu, entry.tensor);
      for (std::size_t i = 0; i < x.size(); ++i) same += x[i] == y[i] ? 1.0 : 0.0;
      all += entry.num_weights();
    }
    EXPECT_GE(same / all, 0.999);
  }
}

TEST_P(CudaPruneExpertsTest, ExpertsThatAreSkippedStay) {
  const Recipe recipe{"wanda", "aligned-admm(6,4)", "row", Propagation::kPruned, 0.0};
  const Plan plan = this->plan(recipe, {"*.experts.1.*"});
  run(true, plan, recipe, "skipped");
  const Checkpoint pruned = result("skipped");
  for (const PlanEntry& entry : plan.entries) {
    const bool same =
        stored_values(pruned, entry.tensor) == stored_values(model_->checkpoint(), entry.tensor);
    EXPECT_EQ(same, !entry.prune) << entry.tensor;
  }
}

TEST_P(CudaPruneExpertsTest, RepeatsItsBytesAndGoesOnWithThem) {
  using enum Propagation;
  for (const Recipe& recipe :
       {Recipe{"wanda", "aligned-admm(6,4)", "row", kPruned, 0.0},
        Recipe{"wanda", "none", "row", kPruned, 0.0}, Recipe{"contribution", "none", "row", kDense, 0.0}}) {
    for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
      SCOPED_TRACE(recipe.refine);
      const Plan plan = this->plan(recipe);
      const std::string name =
          std::string(recipe.score) + recipe.refine + (compute == ComputeType::kF32 ? "f" : "b");
      run(true, plan, recipe, name + "once", compute);
      const std::string bytes = test::read_text(dir_.path() / (name + "once") / "model.safetensors");
      run(true, plan, recipe, name + "twice", compute);
      EXPECT_TRUE(test::read_text(dir_.path() / (name + "twice") / "model.safetensors") == bytes);
      EXPECT_THROW(run(true, plan, recipe, name + "killed", compute, {.last = 1}), Killed);
      const PruneResult rest =
          run(true, plan, recipe, name + "killed", compute, {.last = -1, .leftover = Leftover::kContinue});
      EXPECT_EQ(rest.resumed_blocks, 1);
      EXPECT_TRUE(test::read_text(dir_.path() / (name + "killed") / "model.safetensors") == bytes);
    }
  }
}

// Zeros and few bits, stored as they were solved.
TEST_P(CudaPruneExpertsTest, GridsHoldTheirPattern) {
  const Method& method = method_by_name("best");
  const PlanDefaults defaults{parse_pattern("2:4"), 0.5, method.score, method.refine,
                              parse_grid("int8(row)", "")};
  const Plan plan = uniform_plan(*model_, defaults, {"*.experts.1.*"});
  CheckpointWriter stage(dir_.path() / "out", stage_plan(model_->checkpoint(), plan), Leftover::kDiscard);
  Journal journal(stage.temporary_folder(), {{"run", 1}}, [] {});
  GridOutput output(model_->checkpoint(), plan, stage, journal, {});
  PruneOptions options;
  options.min_expert_tokens = min_tokens_;
  prune(cuda::prune_shop({}), *model_, plan, windows_, options, output);
  PackReport report;
  const auto writer = output.write_packed(dir_.path() / "out", {}, report);
  writer->copy_other_files(model_->checkpoint());
  writer->finish();
  stage.drop_when_unfinished();
  const Checkpoint packed = result("out");
  for (const PlanEntry& entry : plan.entries) {
    if (!entry.prune) {
      EXPECT_EQ(stored_values(packed, entry.tensor), stored_values(model_->checkpoint(), entry.tensor));
      continue;
    }
    const auto found = find_packed(packed, entry.tensor, entry.rows, entry.cols);
    ASSERT_TRUE(found) << entry.tensor;
    const Matrix matrix = unpack_f32(*found);
    EXPECT_TRUE(check_pattern(weight_view(matrix.view()), entry.pattern).holds) << entry.tensor;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, CudaPruneExpertsTest, ::testing::ValuesIn(test::gpu_expert_model_names()),
                         [](const auto& family) { return family.param; });

}  // namespace
}  // namespace swiftprune
