// Widths that differ from layer to layer: how they are chosen, and that everything of this project runs them.
#include "swiftprune/pipeline/choices/width_choice.h"

#include <filesystem>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/shrunk_models.h"
#include "support/collected_output.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/model/generator.h"
#include "swiftprune/model/layer_sizes.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/pipeline/shrunk_checkpoint.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::largest_difference;
using test::logits_of;
using test::masked_logits;
using test::random_windows;
using test::staircase;
using test::TempDir;
using test::tiny;
using ::testing::ElementsAre;

ShrinkResult shrink_to(const Model& model, const Backend& backend, const ShrinkShape& shape,
                       Compensation compensation, const fs::path& out) {
  ShrunkCheckpoint output(model, shape, {}, out);
  ShrinkOptions options;
  options.compensation = compensation;
  const ShrinkResult result = shrink(model, backend, shape, {}, random_windows(model), options, output);
  output.finish({{"method", "shrink"}});
  return result;
}

// ---- the choice

// Four layers of 8 channels of 3·4 weights and 2 head groups of 4·2·4 weights (head size 2, hidden 4).
ModelConfig small() {
  return model_config(nlohmann::json::parse(R"({"model_type": "llama", "vocab_size": 16, "hidden_size": 4,
    "intermediate_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "hidden_act": "silu", "head_dim": 2})"));
}

TEST(SpreadWidths, CheapLayersLoseMore) {
  const ModelConfig m = small();
  // Equal marginal costs of change·s²/(1 - s) with changes of 1 and 3 and a mean share of 3/8: s = 0.485 and
  // 0.265, which is 3.9 and 2.1 of 8 channels.
  const double mlp_share = 4 * 8 * 12.0 / static_cast<double>(block_parameters(m, shape_of(m)));
  const WidthChanges changes{.channels = {0.25, {1.0, 1.0, 3.0, 3.0}}, .groups = {}};
  const ShrinkShape shape = spread_widths(m, {12.0 / 32.0 * mlp_share, {UnitKind::kMlp}, 1}, changes);
  EXPECT_EQ(std::accumulate(shape.layer_channels.begin(), shape.layer_channels.end(), std::int64_t{0}), 20);
  EXPECT_THAT(shape.layer_channels, ElementsAre(4, 4, 6, 6));
  EXPECT_EQ(shape.channels, 6);
  EXPECT_TRUE(shape.layer_groups.empty());
  EXPECT_EQ(shape.groups, 2);
}

TEST(SpreadWidths, KeepsTheAlignmentAndOneUnit) {
  const ModelConfig m = small();
  const WidthChanges changes{.channels = {0.5, {0.0, 1.0, 1.0, 100.0}}, .groups = {}};
  const ShrinkShape shape = spread_widths(m, {0.28, {UnitKind::kMlp}, 3}, changes);
  for (const std::int64_t width : shape.layer_channels) {
    EXPECT_TRUE(width == 8 || (width % 3 == 0 && width > 0)) << width;
  }
  EXPECT_EQ(shape.layer_channels[0], 3);
  EXPECT_EQ(shape.layer_channels[3], 8);
}

TEST(SpreadWidths, WeighsGroupsAgainstChannels) {
  const ModelConfig m = small();
  const WidthChanges costly{.channels = {0.5, {1, 1, 1, 1}}, .groups = {0.5, {1e3, 1e3, 1e3, 1e3}}};
  const ShrinkShape channels = spread_widths(m, {0.2, {UnitKind::kMlp, UnitKind::kHeads}, 1}, costly);
  EXPECT_THAT(channels.layer_groups, ElementsAre(2, 2, 2, 2));
  EXPECT_NEAR(ratio_of(m, channels), 0.2, 0.02);
  const WidthChanges cheap{.channels = {0.5, {1e3, 1e3, 1e3, 1e3}}, .groups = {0.5, {1, 1, 1, 5}}};
  const ShrinkShape groups = spread_widths(m, {0.15, {UnitKind::kMlp, UnitKind::kHeads}, 1}, cheap);
  EXPECT_THAT(groups.layer_groups, ElementsAre(1, 1, 1, 2));
  EXPECT_THAT(groups.layer_channels, ElementsAre(8, 8, 8, 8));
}

TEST(SpreadWidths, RefusesLayersAndImpossibleRatios) {
  const ModelConfig m = small();
  const WidthChanges changes{.channels = {0.5, {1, 1, 1, 1}}, .groups = {}};
  test::expect_error(
      ErrorKind::kUsage,
      [&] {
        spread_widths(m, {0.2, {UnitKind::kMlp, UnitKind::kLayers}, 1}, changes);
      },
      "--units: found layers, expected mlp, heads or both with --non-uniform");
  test::expect_error(
      ErrorKind::kUsage,
      [&] {
        spread_widths(m, {0.9, {UnitKind::kMlp}, 1}, changes);
      },
      "--ratio: found 0.9");
}

// A layer whose MLP adds nothing changes nothing, and loses all that may go.
TEST(WidthChanges, ASilentLayerCostsNothing) {
  const TempDir dir;
  const auto model = Model::open(tiny("llama3"));
  CheckpointWriter writer(dir.path() / "m", plan_like(model->checkpoint()));
  for (const TensorInfo& tensor : model->checkpoint().tensors()) {
    if (tensor.name == "model.layers.1.mlp.down_proj.weight") {
      writer.write(tensor.name, std::vector<float>(static_cast<std::size_t>(tensor.numel()), 0.0f));
    } else {
      writer.write_bytes(tensor.name, model->checkpoint().bytes(tensor));
    }
  }
  writer.copy_other_files(model->checkpoint());
  writer.finish();
  const auto silent = Model::open(dir.path() / "m");
  const auto backend = make_cpu_backend();
  const ShapeRequest request{0.2, {UnitKind::kMlp, UnitKind::kHeads}, 4};
  const auto trials = make_trial_streams(*silent, *backend, random_windows(*silent), ComputeType::kF32);
  const WidthChanges changes = measure_width_changes(silent->config(), request, *trials, {});
  ASSERT_EQ(changes.channels.changes.size(), 2u);
  EXPECT_EQ(changes.channels.changes[1], 0.0);
  EXPECT_GT(changes.channels.changes[0], 1e-4);
  EXPECT_NEAR(changes.channels.share, 0.2, 1e-12);
  ASSERT_EQ(changes.groups.changes.size(), 2u);
  EXPECT_GT(changes.groups.changes[1], 1e-4);
  EXPECT_NEAR(changes.groups.share, 1.0 / 3.0, 1e-12);
  const ShrinkShape shape =
      spread_widths(silent->config(), {0.2, {UnitKind::kMlp}, 4}, {changes.channels, {}});
  EXPECT_LT(shape.layer_channels[1], shape.layer_channels[0]);
}

// Scores of its own, nothing else.
class FixedScores final : public TrialStreams {
 public:
  explicit FixedScores(std::vector<std::vector<std::vector<double>>> scores) : scores_(std::move(scores)) {}
  void restart() override {}
  std::size_t fork(std::size_t) override { return 1; }
  void load_block(std::int64_t layer) override { layer_ = static_cast<std::size_t>(layer); }
  void run(std::size_t) override {}
  void run_with(std::size_t, const KeptUnits&) override {}
  std::vector<std::vector<double>> run_scored(std::size_t, const std::string&) override {
    return scores_.at(layer_);
  }
  double mean_cosine(std::size_t, std::size_t) override { return 0.0; }
  double loss(std::size_t) override { return 0.0; }
  std::vector<double> final_changes() override { return {}; }

 private:
  std::vector<std::vector<std::vector<double>>> scores_;  // [layer][input][column]
  std::size_t layer_ = 0;
};

// Layers of different size are compared by how far a unit's score lies from its layer's mean.
TEST(StandardizedWidths, LowestBesideTheirLayerGo) {
  const ModelConfig m = small();
  const auto of_layer = [](std::vector<double> channels) {
    return std::vector<std::vector<double>>{{}, {9, 9, 9, 9}, {}, std::move(channels)};
  };
  // One low channel of eight, two, none that stands out, and the second layer's scores a thousand times over.
  FixedScores trials({of_layer({0, 9, 9, 9, 9, 9, 9, 9}), of_layer({0, 0, 9, 9, 9, 9, 9, 9}),
                      of_layer({5, 5, 5, 5, 5, 5, 5, 5}), of_layer({0, 0, 9e3, 9e3, 9e3, 9e3, 9e3, 9e3})});
  // 5 of the 32 channels, of 12 weights; a block has 160.
  const double ratio = 5 * 12.0 / (4 * 160.0);
  const ShrinkShape shape = standardized_widths(m, {ratio, {UnitKind::kMlp}, 1}, trials, {});
  EXPECT_THAT(shape.layer_channels, ElementsAre(7, 6, 8, 6));
  EXPECT_EQ(shape.channels, 8);
  EXPECT_TRUE(shape.layer_groups.empty());
  // Widths become multiples, and something is left everywhere.
  EXPECT_THAT(standardized_widths(m, {ratio, {UnitKind::kMlp}, 4}, trials, {}).layer_channels,
              ElementsAre(8, 8, 8, 8));
  test::expect_error(
      ErrorKind::kUsage,
      [&] {
        standardized_widths(m, {ratio, {UnitKind::kLayers}, 1}, trials, {});
      },
      "--units: found layers");
}

// ---- the result

class NonUniform : public ::testing::TestWithParam<const char*> {
 protected:
  TempDir dir_;
  std::unique_ptr<Model> model_ = Model::open(tiny(GetParam()));
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  TokenWindows windows_ = random_windows(*model_);
};

INSTANTIATE_TEST_SUITE_P(Families, NonUniform,
                         ::testing::Values("llama2", "llama3", "llama_bias", "mistral", "qwen2_sliding",
                                           "qwen3", "gemma2", "gemma3_text", "gemma3_with_vision", "phi3",
                                           "pythia", "gpt_neox_sequential", "opt", "smollm3", "granite",
                                           "exaone4_full", "glm4", "starcoder2_no_bias", "cohere"),
                         [](const auto& test_info) { return test_info.param; });

TEST_P(NonUniform, ComputesWhatZerosDo) {
  const ShrinkShape shape = staircase(model_->config());
  const ShrinkResult result = shrink_to(*model_, *backend_, shape, Compensation::kNone, dir_.path() / "out");
  const auto small = Model::open(dir_.path() / "out");
  ASSERT_TRUE(small->config().has_layer_sizes);
  for (std::size_t i = 0; i < small->config().blocks.size(); ++i) {
    EXPECT_EQ(small->config().blocks[i].down.inputs, shape.layer_channels[i]);
    EXPECT_EQ(small->config().kv_heads_in(small->config().blocks[i]), shape.layer_groups[i]);
  }
  const Matrix found = logits_of(*small, *backend_, windows_);
  const Matrix expected = masked_logits(*model_, *backend_, windows_, result);
  EXPECT_LT(largest_difference(found.values(), expected.values()), 1e-4);
  // One token after the other gives the last position's logits.
  Generator generator(*small, *backend_, ComputeType::kF32, 1, windows_.seqlen);
  ConstMatrixView last;
  for (const std::int32_t& id : windows_.window(0)) last = generator.append(std::span(&id, 1));
  const auto of_window = found.view().row_span(windows_.seqlen - 1);
  EXPECT_LT(largest_difference(last.row_span(0), of_window), 1e-3);
}

TEST_P(NonUniform, IsPrunedLikeAnyOther) {
  shrink_to(*model_, *backend_, staircase(model_->config()), Compensation::kRefit, dir_.path() / "out");
  const auto small = Model::open(dir_.path() / "out");
  test::Collected output(small->checkpoint());
  prune(*small, *backend_, uniform_plan(*small, {parse_pattern("row"), 0.5, parse_score("wanda"), {}}, {}),
        windows_, {}, output);
  std::int64_t zeros = 0, all = 0;
  for (const auto& [name, bytes] : output.tensors) {
    const std::vector<float> values = output.values(name);
    zeros += std::count(values.begin(), values.end(), 0.0f);
    all += std::ssize(values);
  }
  EXPECT_NEAR(static_cast<double>(zeros) / static_cast<double>(all), 0.5, 0.02);
}

TEST(NonUniformModel, IsRefusedWhereItCannotGo) {
  const TempDir dir;
  const auto model = Model::open(tiny("llama3"));
  const auto backend = make_cpu_backend();
  shrink_to(*model, *backend, staircase(model->config()), Compensation::kNone, dir.path() / "out");
  const auto small = Model::open(dir.path() / "out");
  test::expect_error(
      ErrorKind::kBadInput, [&] { check_shrinkable(*small); },
      "cannot be shrunk again; shrink the dense one");
}

}  // namespace
}  // namespace swiftprune
