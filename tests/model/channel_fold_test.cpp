// Inputs of output projections change places, the rows that make them as well, and the model computes what it did: for
// every family, through files.
#include "swiftprune/model/channel_fold.h"

#include <algorithm>
#include <numeric>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/logits.h"
#include "support/temp_dir.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/pipeline/checkpoint_output.h"
#include "swiftprune/pipeline/tensor_output.h"

namespace swiftprune {
namespace {

using Order = std::vector<std::int64_t>;

// Each set's channels in a random order of their own.
Order random_channels(const ChannelFold& fold, std::mt19937& random) {
  Order channels(static_cast<std::size_t>(fold.num_channels()));
  std::iota(channels.begin(), channels.end(), 0);
  for (auto set = channels.begin(); set != channels.end(); set += fold.size)
    std::shuffle(set, set + fold.size, random);
  return channels;
}

// The model with random orders wherever inputs can change places; returns of how many projections.
int write_reordered(const Model& model, const std::filesystem::path& folder) {
  CheckpointWriter writer(folder, plan_like(model.checkpoint()));
  CheckpointOutput output(model.checkpoint(), writer);
  std::mt19937 random(3);
  int count = 0;
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
    DecoderBlock block = model.load_block(layer);
    std::vector<bool> changed(block.linears().size());
    for (const LinearInput input : {LinearInput::kAttentionOutput, LinearInput::kMlpOutput}) {
      const auto fold = channel_fold(model.config(), block.config(), input);
      if (!fold) continue;
      ++count;
      const Order channels = random_channels(*fold, random), inputs = fold->of_inputs(channels);
      EXPECT_TRUE(fits(*fold, inputs));
      EXPECT_EQ(fold->of_channels(inputs), channels);
      EXPECT_EQ(block.linears()[fold->linear].tensors.input, input);
      for (std::size_t i = 0; i < changed.size(); ++i) {
        BlockLinear& linear = block.linears()[i];
        reorder_linear(*fold, channels, i, linear.weight.view(), linear.bias);
        if (i == fold->linear || fold->moves_rows_of(i)) changed[i] = true;
      }
    }
    for (std::size_t i = 0; i < changed.size(); ++i) {
      if (!changed[i]) continue;
      const BlockLinear& linear = block.linears()[i];
      write_tensor(output, linear.tensors.name + ".weight", linear.dtype, linear.weight.values());
      if (linear.tensors.bias) {
        const std::string bias = linear.tensors.name + ".bias";
        write_tensor(output, bias, model.checkpoint().at(bias).dtype, linear.bias);
      }
    }
  }
  output.copy_rest();
  writer.copy_other_files(model.checkpoint());
  writer.finish();
  return count;
}

TEST(ChannelFold, ChangesNothingThatTheModelComputes) {
  const auto backend = make_cpu_backend();
  for (const std::string& name : test::all_model_names()) {
    SCOPED_TRACE(name);
    const test::TempDir folder;
    const auto model = Model::open(test::model_folder(name));
    const int count = write_reordered(*model, folder.path() / "reordered");
    const auto reordered = Model::open(folder.path() / "reordered");
    const TokenWindows windows = test::Expected(name).windows();
    const Matrix expected = test::Expected(name).matrix("logits");
    // As FamilyTest: rounding of float sums in another order.
    EXPECT_LE(test::max_difference(test::logits_of(*reordered, *backend, windows).view(), expected.view()),
              1e-4);
    const std::vector<BlockConfig>& blocks = model->config().blocks;
    const bool shares_keys = std::any_of(blocks.begin(), blocks.end(), [](const BlockConfig& b) {
      return b.keys_are_values || b.carried_keys.has_value();
    });
    const bool whole =
        !model->config().has_experts() && !model->config().has_recurrent_blocks() && !shares_keys;
    if (whole) {
      EXPECT_EQ(count, 2 * model->config().num_layers());
    }
  }
}

// A row that does not move with its input would be seen.
TEST(ChannelFold, AllSourcesMoveTogether) {
  const auto backend = make_cpu_backend();
  const auto model = Model::open(test::kModels / "qwen2");
  const TokenWindows windows = test::Expected("qwen2").windows();
  std::mt19937 random(1);
  for (const LinearInput input : {LinearInput::kAttentionOutput, LinearInput::kMlpOutput}) {
    const auto fold = channel_fold(model->config(), model->config().blocks[0], input).value();
    const Order channels = random_channels(fold, random);
    const test::TempDir folder;
    CheckpointWriter writer(folder.path() / "half", plan_like(model->checkpoint()));
    CheckpointOutput output(model->checkpoint(), writer);
    DecoderBlock block = model->load_block(0);
    BlockLinear& linear = block.linears()[fold.sources.back().linear];
    reorder_linear(fold, channels, fold.sources.back().linear, linear.weight.view(), linear.bias);
    write_tensor(output, linear.tensors.name + ".weight", linear.dtype, linear.weight.values());
    output.copy_rest();
    writer.copy_other_files(model->checkpoint());
    writer.finish();
    const auto half = Model::open(folder.path() / "half");
    EXPECT_GT(test::max_difference(test::logits_of(*half, *backend, windows).view(),
                                   test::Expected("qwen2").matrix("logits").view()),
              1e-3);
  }
}

TEST(ChannelFold, SaysWhatBindsInputsToTheirPlaces) {
  std::set<std::string> bound;
  for (const std::string& name : test::all_model_names()) {
    const auto model = Model::open(test::model_folder(name));
    for (const BlockConfig& block : model->config().blocks) {
      for (const LinearInput input : {LinearInput::kAttentionOutput, LinearInput::kMlpOutput}) {
        std::string_view why = "?";
        const bool folds = channel_fold(model->config(), block, input, &why).has_value();
        EXPECT_EQ(folds, why.empty()) << name;
        if (!folds) bound.emplace(why);
      }
    }
  }
  EXPECT_THAT(bound, testing::UnorderedElementsAre("a block without this projection", "latent attention",
                                                   "a mixer in attention's place",
                                                   "a gate on each head's values", "a mixer beside attention",
                                                   "values that are keys, or that blocks share", "experts"));
}

TEST(ChannelFold, OrdersThatDoNotFitAreSeen) {
  // Two sets of three that share their order, twice.
  const ChannelFold fold{.size = 3, .shared = 2, .sources = {{0, {0, 1, 2, 3, 4, 5}}}, .linear = 1};
  EXPECT_EQ(fold.of_inputs(Order{2, 0, 1, 3, 5, 4}), (Order{2, 0, 1, 5, 3, 4, 6, 8, 7, 9, 11, 10}));
  EXPECT_TRUE(fits(fold, Order{2, 0, 1, 5, 3, 4, 6, 8, 7, 9, 11, 10}));
  EXPECT_FALSE(fits(fold, Order{2, 0, 1, 5, 3, 4, 6, 8, 7, 9, 10, 11}));  // the last two differ
  EXPECT_FALSE(fits(fold, Order{3, 0, 1, 2, 5, 4, 6, 8, 7, 9, 11, 10}));  // between sets
  EXPECT_FALSE(fits(fold, Order{2, 0, 0, 5, 3, 3, 6, 8, 7, 9, 11, 10}));  // twice
  EXPECT_FALSE(fits(fold, Order{2, 0, 1}));
}

}  // namespace
}  // namespace swiftprune
