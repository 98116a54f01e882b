// Structured pruning on the GPU against the CPU: trial streams, scores, whole runs, and models whose layers
// differ in size.
#include <algorithm>
#include <cmath>

#include "cuda/gpu.h"
#include "pipeline/shrunk_models.h"
#include "support/expect_error.h"
#include "support/forwards.h"
#include "support/temp_dir.h"
#include "swiftprune/cuda/stages.h"
#include "swiftprune/evaluation/perplexity.h"
#include "swiftprune/model/generator.h"
#include "swiftprune/pipeline/choices/layer_choice.h"
#include "swiftprune/pipeline/choices/width_choice.h"
#include "swiftprune/pipeline/shrunk_checkpoint.h"
#include "swiftprune/structure/unit_scores.h"

namespace swiftprune {
namespace {

using enum LinearInput;
using test::random_windows;
using test::relative_error;
using test::TempDir;
using test::tiny;

double largest_relative_difference(std::span<const double> found, std::span<const double> expected) {
  EXPECT_EQ(found.size(), expected.size());
  double top = 0.0, most = 0.0;
  for (const double x : expected) top = std::max(top, std::abs(x));
  for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i)
    most = std::max(most, std::abs(found[i] - expected[i]));
  return top > 0.0 ? most / top : most;
}

class CudaShrinkTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { test::have_gpu(); }

  std::unique_ptr<Model> shrink_to(bool on_gpu, const ShrinkShape& shape,
                                   const std::vector<std::int64_t>& removed, const ShrinkOptions& options,
                                   const std::string& name, ShrinkResult* result = nullptr) {
    ShrunkCheckpoint output(*model_, shape, removed, dir_.path() / name,
                            added_biases(model_->config(), shape, options.compensation));
    const ShrinkShopMaker shop = on_gpu ? cuda::shrink_shop({}) : cpu_shrink_shop(*cpu_);
    ShrinkResult done = shrink(shop, *model_, shape, removed, windows_, options, output);
    output.finish({{"method", "shrink"}});
    if (result != nullptr) *result = std::move(done);
    return Model::open(dir_.path() / name);
  }

  double loss_of(const Model& model) const {
    const std::vector<ScoredWindows> all = {
        {windows_, std::vector<std::int64_t>(static_cast<std::size_t>(windows_.num_windows()), 1)}};
    return test::perplexity_of(model, *cpu_, all).mean_nll;
  }

  TempDir dir_;
  std::unique_ptr<Model> model_ = Model::open(tiny(GetParam()));
  std::unique_ptr<Backend> cpu_ = make_cpu_backend();
  TokenWindows windows_ = random_windows(*model_, 5);
};

INSTANTIATE_TEST_SUITE_P(Families, CudaShrinkTest,
                         ::testing::Values("llama2", "llama3", "llama_bias", "mistral", "qwen2_sliding",
                                           "qwen3", "gemma2", "gemma3_text", "gemma3_with_vision", "phi3",
                                           "pythia", "gpt_neox_sequential", "opt", "opt_no_bias"),
                         [](const auto& test_info) { return test_info.param; });

TEST_P(CudaShrinkTest, TrialStreamsAgreeWithTheCpu) {
  const ModelConfig& m = model_->config();
  const auto cpu = make_trial_streams(*model_, *cpu_, windows_, ComputeType::kF32);
  const auto gpu = cuda::make_trial_streams(*model_, windows_, ComputeType::kF32, {});
  for (const UnitScorer& scorer : unit_scorers()) {
    for (TrialStreams* trials : {cpu.get(), gpu.get()}) trials->restart();
    for (std::int64_t layer = 0; layer < m.num_layers(); ++layer) {
      std::vector<std::vector<double>> expected, found;
      for (TrialStreams* trials : {cpu.get(), gpu.get()}) {
        trials->load_block(layer);
        if (layer == 1) trials->run(1);
        if (layer == 0) {
          KeptUnits kept = all_units(m);
          kept.channels.resize(static_cast<std::size_t>(m.intermediate_size / 2));
          if (m.num_kv_heads > 1) kept.groups.pop_back();
          trials->run_with(trials->fork(0), kept);
        }
        (trials == cpu.get() ? expected : found) = trials->run_scored(0, std::string(scorer.name));
      }
      for (const LinearInput output : {kAttentionOutput, kMlpOutput}) {
        const auto i = static_cast<std::size_t>(output);
        EXPECT_LT(largest_relative_difference(found[i], expected[i]), scorer.needs.gram ? 5e-3 : 1e-4)
            << scorer.name << ", " << name_of(output);
      }
    }
    EXPECT_NEAR(gpu->loss(0), cpu->loss(0), 1e-4);
    EXPECT_NEAR(gpu->loss(1), cpu->loss(1), 1e-4);
    EXPECT_NEAR(gpu->mean_cosine(0, 1), cpu->mean_cosine(0, 1), 1e-5);
    EXPECT_LT(largest_relative_difference(gpu->final_changes(), cpu->final_changes()), 1e-3);
  }
}

TEST_P(CudaShrinkTest, ChoicesAgreeWithTheCpu) {
  const std::int64_t layers = model_->config().num_layers();
  const auto cpu = make_trial_streams(*model_, *cpu_, windows_, ComputeType::kF32);
  const auto gpu = cuda::make_trial_streams(*model_, windows_, ComputeType::kF32, {});
  EXPECT_LT(largest_relative_difference(block_influence(*gpu, layers, {}), block_influence(*cpu, layers, {})),
            1e-4);
  const GreedyLayers expected = greedy_layers(*cpu, layers, 1, {}),
                     found = greedy_layers(*gpu, layers, 1, {});
  EXPECT_EQ(found.order, expected.order);
  EXPECT_NEAR(found.losses[0], expected.losses[0], 1e-4);
  const ShapeRequest request{0.3, {UnitKind::kMlp}, 4};
  EXPECT_LT(largest_relative_difference(
                measure_width_changes(model_->config(), request, *gpu, {}).channels.changes,
                measure_width_changes(model_->config(), request, *cpu, {}).channels.changes),
            2e-3);
}

// Everything that can go from this family at once, with every compensation that it has room for.
TEST_P(CudaShrinkTest, RunsAgreeWithTheCpu) {
  const ModelConfig& m = model_->config();
  for (const Compensation compensation :
       {Compensation::kNone, Compensation::kBias, Compensation::kRefit, Compensation::kAligned}) {
    ShrinkShape shape = shape_of(m);
    shape.channels = 24;
    const bool biased = compensation == Compensation::kBias;
    if (biased && !m.blocks.front().down.bias && m.mlp_bias_field.empty()) continue;
    if (!biased && !inseparable(m, UnitKind::kHeads)) shape.groups -= 1;
    shape.layers -= 1;
    const std::vector<std::int64_t> removed = {shape.layers / 2};
    ShrinkOptions options;
    options.compensation = compensation;
    const std::string name(name_of(compensation));
    ShrinkResult expected, found;
    const auto on_cpu = shrink_to(false, shape, removed, options, name + "-cpu", &expected);
    const auto on_gpu = shrink_to(true, shape, removed, options, name + "-gpu", &found);
    ASSERT_EQ(found.blocks.size(), expected.blocks.size()) << name;
    bool same_units = true;
    for (std::size_t b = 0; b < found.blocks.size(); ++b) {
      EXPECT_EQ(found.blocks[b].layer, expected.blocks[b].layer);
      same_units &= found.blocks[b].kept.channels == expected.blocks[b].kept.channels &&
                    found.blocks[b].kept.groups == expected.blocks[b].kept.groups;
    }
    // A unit near a tie may differ behind a refit whose rounding differs; the loss does not care.
    EXPECT_NEAR(loss_of(*on_gpu), loss_of(*on_cpu), 2e-2) << name;
    if (compensation == Compensation::kNone) {
      EXPECT_TRUE(same_units);
    }
    if (!same_units) continue;
    for (const TensorInfo& tensor : on_cpu->checkpoint().tensors()) {
      const TensorInfo& other = on_gpu->checkpoint().at(tensor.name);
      ASSERT_EQ(other.shape, tensor.shape) << tensor.name;
      ASSERT_EQ(other.dtype, tensor.dtype) << tensor.name;
      Matrix a(1, tensor.numel()), b(1, tensor.numel());
      convert_to_f32(on_cpu->checkpoint().bytes(tensor), tensor.dtype, a.values());
      convert_to_f32(on_gpu->checkpoint().bytes(other), other.dtype, b.values());
      if (compensation == Compensation::kNone) {
        EXPECT_EQ(relative_error(b.view(), a.view()), 0.0) << tensor.name;
      } else {
        EXPECT_LT(relative_error(b.view(), a.view()), 2e-2) << name << " " << tensor.name;
      }
    }
  }
}

TEST_P(CudaShrinkTest, EqualRunsGiveEqualBytes) {
  ShrinkShape shape = shape_of(model_->config());
  shape.channels = 24;
  ShrinkOptions options;
  options.compensation = Compensation::kRefit;
  options.compute = ComputeType::kBF16;
  const auto one = shrink_to(true, shape, {}, options, "one"),
             two = shrink_to(true, shape, {}, options, "two");
  for (const TensorInfo& tensor : one->checkpoint().tensors()) {
    const auto a = one->checkpoint().bytes(tensor);
    const auto b = two->checkpoint().bytes(two->checkpoint().at(tensor.name));
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << tensor.name;
  }
}

TEST_P(CudaShrinkTest, LayersOfDifferentSizesRunOnTheGpu) {
  ShrinkOptions options;
  options.compensation = Compensation::kRefit;
  const auto small = shrink_to(true, test::staircase(model_->config()), {}, options, "out");
  ASSERT_TRUE(small->config().has_layer_sizes);
  const std::vector<ScoredWindows> all = {
      {windows_, std::vector<std::int64_t>(static_cast<std::size_t>(windows_.num_windows()), 1)}};
  const Model* models[] = {small.get()};
  const auto forwards = cuda::make_text_forwards(models, ComputeType::kF32, {});
  EXPECT_NEAR(perplexity(*small, *forwards, all, {}).mean_nll, loss_of(*small), 1e-4);
  Generator expected(*small, *cpu_, ComputeType::kF32, 1, windows_.seqlen);
  const auto found = cuda::make_generator(*small, ComputeType::kF32, 1, windows_.seqlen, {});
  const auto ids = windows_.window(0);
  for (std::size_t done = 0; done < ids.size(); ++done) {
    EXPECT_LT(relative_error(found->append(ids.subspan(done, 1)), expected.append(ids.subspan(done, 1))),
              1e-3)
        << done;
  }
}

}  // namespace
}  // namespace swiftprune
