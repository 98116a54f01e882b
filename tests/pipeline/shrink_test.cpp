// Whole runs of structured pruning on the tiny models of every family.
#include "swiftprune/pipeline/drivers/shrink.h"

#include <cmath>
#include <filesystem>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "pipeline/shrunk_models.h"
#include "support/collected_output.h"
#include "support/expect_error.h"
#include "support/forwards.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/evaluation/perplexity.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/pipeline/choices/shape_choice.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/pipeline/record.h"
#include "swiftprune/pipeline/shrunk_checkpoint.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

// Tokens 2.. of each window.
std::vector<ScoredWindows> all_scored(const TokenWindows& windows) {
  return {{windows, std::vector<std::int64_t>(static_cast<std::size_t>(windows.num_windows()), 1)}};
}

namespace fs = std::filesystem;
using test::largest_difference;
using test::logits_of;
using test::masked_logits;
using test::random_windows;
using test::TempDir;
using test::tiny;
using ::testing::ElementsAre;

nlohmann::json read_json(const fs::path& file) { return nlohmann::json::parse(test::read_text(file)); }

double squared_error(const Matrix& a, const Matrix& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.values().size(); ++i) {
    const double d = double{a.values()[i]} - double{b.values()[i]};
    sum += d * d;
  }
  return sum;
}

class ShrinkFamily : public ::testing::TestWithParam<std::string> {
 protected:
  ShrinkResult shrink_to(const ShrinkShape& shape, const std::vector<std::int64_t>& removed,
                         Compensation compensation, const fs::path& out) {
    ShrunkCheckpoint output(*model_, shape, removed, out);
    ShrinkOptions options;
    options.compensation = compensation;
    const ShrinkResult result = shrink(*model_, *backend_, shape, removed, windows_, options, output);
    output.finish({{"method", "shrink"}});
    return result;
  }

  bool has(UnitKind kind) const { return !inseparable(model_->config(), kind); }

  TempDir dir_;
  std::unique_ptr<Model> model_ = Model::open(tiny(GetParam()));
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  TokenWindows windows_ = random_windows(*model_);
};

// Those that can lose something.
std::vector<std::string> shrinkable_names() {
  std::vector<std::string> names = test::model_names();
  std::erase_if(names, [](const std::string& name) {
    const ModelConfig model = Model::open(tiny(name))->config();
    return inseparable(model, UnitKind::kLayers) && inseparable(model, UnitKind::kMlp);
  });
  return names;
}

INSTANTIATE_TEST_SUITE_P(Families, ShrinkFamily, ::testing::ValuesIn(shrinkable_names()),
                         [](const auto& test_info) { return test_info.param; });

// Everything that can go from this family at once: the folder is a model that computes what the dense one
// does with zeros in place of the units.
TEST_P(ShrinkFamily, SmallerModelComputesWhatZerosDo) {
  ShrinkShape shape = shape_of(model_->config());
  std::vector<std::int64_t> removed;
  if (has(UnitKind::kMlp)) shape.channels = 24;
  if (has(UnitKind::kHeads)) shape.groups -= 1;
  if (has(UnitKind::kLayers)) {
    --shape.layers;
    removed.push_back(shape.layers / 2);
  }
  const ShrinkResult result = shrink_to(shape, removed, Compensation::kNone, dir_.path() / "out");
  const auto small = Model::open(dir_.path() / "out");
  EXPECT_EQ(shape_of(small->config()), shape);
  const Matrix expected = masked_logits(*model_, *backend_, windows_, result);
  EXPECT_LT(largest_difference(logits_of(*small, *backend_, windows_), expected), 1e-4);
  EXPECT_GT(largest_difference(logits_of(*model_, *backend_, windows_), expected), 1e-2) << "nothing changed";
  // Tied stays tied, and no head is invented.
  EXPECT_EQ(small->config().head == small->config().embedding,
            model_->config().head == model_->config().embedding);
}

TEST_P(ShrinkFamily, RefitBringsTheOutputNearer) {
  if (!has(UnitKind::kMlp)) GTEST_SKIP() << "the width of the MLP is no field of this family";
  ShrinkShape shape = shape_of(model_->config());
  shape.channels = 28;
  shrink_to(shape, {}, Compensation::kNone, dir_.path() / "none");
  shrink_to(shape, {}, Compensation::kRefit, dir_.path() / "refit");
  const Matrix dense = logits_of(*model_, *backend_, windows_);
  const auto error = [&](const char* name) {
    return squared_error(logits_of(*Model::open(dir_.path() / name), *backend_, windows_), dense);
  };
  EXPECT_LT(error("refit"), error("none"));
}

TEST_P(ShrinkFamily, AlignedRunsEverywhere) {
  ShrinkShape shape = shape_of(model_->config());
  std::vector<std::int64_t> removed;
  if (has(UnitKind::kMlp)) shape.channels = 28;
  if (has(UnitKind::kLayers)) {
    --shape.layers;
    removed.push_back(0);
  }
  shrink_to(shape, removed, Compensation::kAligned, dir_.path() / "out");
  const Matrix logits = logits_of(*Model::open(dir_.path() / "out"), *backend_, windows_);
  for (const float logit : logits.values()) {
    ASSERT_TRUE(std::isfinite(logit));
  }
}

using ShrinkOne = ShrinkFamily;
INSTANTIATE_TEST_SUITE_P(Pythia, ShrinkOne, ::testing::Values("pythia", "opt"),
                         [](const auto& test_info) { return test_info.param; });

// Where there is a bias it takes the mean of what went: the mean output of the last block is the dense one's
// when only that block loses channels.
TEST_P(ShrinkOne, BiasTakesTheMean) {
  ShrinkShape shape = shape_of(model_->config());
  shape.channels = 20;
  shrink_to(shape, {}, Compensation::kBias, dir_.path() / "bias");
  shrink_to(shape, {}, Compensation::kNone, dir_.path() / "none");
  const auto bias = Checkpoint::open(dir_.path() / "bias"), none = Checkpoint::open(dir_.path() / "none");
  const std::string down = model_->config().blocks[0].down.name;
  const auto with = bias.load_vector(down + ".bias", 24), without = none.load_vector(down + ".bias", 24);
  EXPECT_NE(with, without);
  const auto dense = model_->checkpoint().load_vector(down + ".bias", 24);
  EXPECT_EQ(without, dense);
}

// FLAP's compensation in a family that has no biases but whose config.json can switch them on.
TEST(Shrink, AddsABiasWhereTheFamilyAllowsOne) {
  const TempDir dir;
  const auto model = Model::open(tiny("llama3"));
  const auto backend = make_cpu_backend();
  const TokenWindows windows = random_windows(*model);
  ShrinkShape shape = shape_of(model->config());
  shape.channels = 20;
  ShrinkOptions options;
  const auto shrink_with = [&](Compensation compensation, const std::string& name) {
    options.compensation = compensation;
    const auto biases = added_biases(model->config(), shape, compensation);
    ShrunkCheckpoint output(*model, shape, {}, dir.path() / name, biases);
    shrink(*model, *backend, shape, {}, windows, options, output);
    output.finish({{"method", "shrink"}});
    return Model::open(dir.path() / name);
  };
  const auto bias = shrink_with(Compensation::kBias, "bias"), none = shrink_with(Compensation::kNone, "none");
  EXPECT_EQ(read_json(dir.path() / "bias/config.json").at("mlp_bias"), true);
  EXPECT_EQ(read_json(dir.path() / "bias/config.json").value("attention_bias", false), false);
  const LinearTensors& down = bias->config().blocks[0].down;
  EXPECT_TRUE(down.bias);
  EXPECT_FALSE(bias->config().blocks[0].attention_output.bias);
  EXPECT_FALSE(none->config().blocks[0].down.bias);
  for (const LinearTensors& up : bias->config().blocks[0].up) {
    EXPECT_THAT(bias->checkpoint().load_vector(up.name + ".bias", 20), ::testing::Each(0.0f));
  }
  // By hand: the mean output of the first MLP's channels that are gone.
  const std::vector<float> found = bias->checkpoint().load_vector(down.name + ".bias", down.outputs);
  const auto mean_output = [&](const Model& m) {
    Matrix hidden = m.embed_windows(windows, 0, windows.num_windows());
    DecoderBlock block = m.load_block(0);
    block.pack(*backend, ComputeType::kF32);
    std::vector<double> mean(static_cast<std::size_t>(down.outputs), 0.0);
    BlockForwardOptions forward;
    forward.sequence_length = windows.seqlen;
    const InputObserver observer = [&](LinearInput input, ConstMatrixView x) {
      if (input != LinearInput::kMlpOutput) return;
      const Matrix y = block.project(*backend, input, x);
      for (std::int64_t r = 0; r < y.rows(); ++r) {
        for (std::int64_t c = 0; c < y.cols(); ++c) {
          mean[static_cast<std::size_t>(c)] += double{y.at(r, c)} / static_cast<double>(y.rows());
        }
      }
    };
    forward.observer = &observer;
    block.forward(*backend, m.rope_tables(windows.seqlen), hidden.view(), forward);
    return mean;
  };
  const std::vector<double> dense = mean_output(*model), with = mean_output(*bias),
                            without = mean_output(*none);
  constexpr double kRounding = 1e-3;  // of a bf16 bias below 0.25
  for (std::size_t o = 0; o < found.size(); ++o) {
    EXPECT_NEAR(found[o], dense[o] - without[o], kRounding);
    EXPECT_NEAR(with[o], dense[o], kRounding);
  }
}

TEST(Shrink, NamesFamiliesWithoutRoomForABias) {
  const auto bad = [](const char* name, const char* text) {
    const ModelConfig model = Model::open(tiny(name))->config();
    ShrinkShape shape = shape_of(model);
    EXPECT_THAT(added_biases(model, shape, Compensation::kBias), ::testing::IsEmpty());  // nothing goes
    shape.channels -= 4;
    EXPECT_THAT(added_biases(model, shape, Compensation::kRefit), ::testing::IsEmpty());
    test::expect_error(
        ErrorKind::kUsage, [&] { added_biases(model, shape, Compensation::kBias); },
        "--compensate: found bias", text);
  };
  bad("mistral", "model.layers.0.mlp.down_proj has no room: config.json of the family mistral");
  bad("gemma2", "expected none, refit or aligned");
  bad("qwen3", "expected none, refit or aligned");
  const ModelConfig biased = Model::open(tiny("llama_bias"))->config();
  ShrinkShape shape = shape_of(biased);
  shape.channels -= 4;
  EXPECT_THAT(added_biases(biased, shape, Compensation::kBias),
              ::testing::IsEmpty());  // there are some already
}

TEST(ShrunkCheckpoint, ConfigNamesTheNewSizes) {
  const TempDir dir;
  const auto model = Model::open(tiny("llama3"));
  const ShrinkShape shape{16, 1, 2};
  ShrunkCheckpoint output(*model, shape, {}, dir.path() / "out");
  const auto backend = make_cpu_backend();
  const TokenWindows windows = random_windows(*model);
  shrink(*model, *backend, shape, {}, windows, {}, output);
  output.finish({{"method", "shrink"}});
  nlohmann::json config = read_json(dir.path() / "out/config.json"),
                 dense = read_json(tiny("llama3") / "config.json");
  EXPECT_EQ(config.at("intermediate_size"), 16);
  EXPECT_EQ(config.at("num_attention_heads"), 3);
  EXPECT_EQ(config.at("num_key_value_heads"), 1);
  EXPECT_EQ(config.at("head_dim"), 4);
  EXPECT_EQ(config.at("num_hidden_layers"), 2);
  for (const char* key : {"intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"}) {
    config.erase(key), dense.erase(key);
  }
  EXPECT_EQ(config, dense);  // and nothing else
  EXPECT_EQ(read_json(dir.path() / "out/swiftprune.json").at("method"), "shrink");
}

TEST(ShrunkCheckpoint, SaysWhichLayersSlide) {
  const TempDir dir;
  const auto model = Model::open(tiny("gemma3_with_vision"));  // every 6th of its layers is full
  ShrinkShape shape = shape_of(model->config());
  shape.layers = 4;
  const std::vector<std::int64_t> removed = {1, 4};
  ShrunkCheckpoint output(*model, shape, removed, dir.path() / "out");
  const auto backend = make_cpu_backend();
  shrink(*model, *backend, shape, removed, random_windows(*model), {}, output);
  output.finish({});
  const auto text = read_json(dir.path() / "out/config.json").at("text_config");
  EXPECT_THAT(text.at("layer_types"),
              ElementsAre("sliding_attention", "sliding_attention", "sliding_attention", "full_attention"));
}

// ---- layers

// A layer that adds nothing is the one to go, whoever chooses.
TEST(LayerChoice, FindsTheSilentLayer) {
  const TempDir dir;
  const auto model = Model::open(tiny("gemma2"));
  CheckpointWriter writer(dir.path() / "m", plan_like(model->checkpoint()));
  for (const TensorInfo& tensor : model->checkpoint().tensors()) {
    const bool silent = tensor.name.find("layers.1.") != std::string::npos &&
                        (tensor.name.ends_with("o_proj.weight") || tensor.name.ends_with("down_proj.weight"));
    if (silent) {
      writer.write(tensor.name, std::vector<float>(static_cast<std::size_t>(tensor.numel()), 0.0f));
    } else {
      writer.write_bytes(tensor.name, model->checkpoint().bytes(tensor));
    }
  }
  writer.copy_other_files(model->checkpoint());
  writer.finish();
  const auto silent = Model::open(dir.path() / "m");
  const auto backend = make_cpu_backend();
  const TokenWindows windows = random_windows(*silent);
  const auto trials = make_trial_streams(*silent, *backend, windows, ComputeType::kF32);
  const std::int64_t layers = silent->config().num_layers();
  const std::vector<double> influence = block_influence(*trials, layers, {});
  ASSERT_EQ(influence.size(), 3u);
  EXPECT_NEAR(influence[1], 0.0, 1e-6);
  EXPECT_GT(influence[0], 1e-3);
  EXPECT_GT(influence[2], 1e-3);
  const GreedyLayers greedy = greedy_layers(*trials, layers, 2, {});
  ASSERT_EQ(greedy.order.size(), 2u);
  EXPECT_LE(greedy.losses[0], greedy.dense_loss + 1e-6);  // no worse than without the silent one
  // Its losses are those of the folders without these layers.
  EXPECT_NEAR(test::perplexity_of(*silent, *backend, all_scored(windows)).mean_nll, greedy.dense_loss, 1e-5);
  for (std::size_t n = 1; n <= 2; ++n) {
    std::vector<std::int64_t> removed(greedy.order.begin(),
                                      greedy.order.begin() + static_cast<std::ptrdiff_t>(n));
    std::sort(removed.begin(), removed.end());
    ShrinkShape shape = shape_of(silent->config());
    shape.layers -= static_cast<std::int64_t>(n);
    const fs::path out = dir.path() / std::to_string(n);
    ShrunkCheckpoint output(*silent, shape, removed, out);
    ShrinkOptions options;
    options.compensation = Compensation::kNone;
    shrink(*silent, *backend, shape, removed, windows, options, output);
    output.finish({});
    const auto small = Model::open(out);
    EXPECT_NEAR(test::perplexity_of(*small, *backend, all_scored(windows)).mean_nll, greedy.losses[n - 1],
                1e-4);
  }
}

// Streams that only know which layers they ran through; their loss is a made-up function of those that they lack.
class CountedStreams : public TrialStreams {
 public:
  explicit CountedStreams(std::int64_t layers) : layers_(layers) {}
  static double loss_without(const LayerSet& gone) {
    double loss = 1.0;
    for (const std::int64_t a : gone) {
      loss += 0.1 * static_cast<double>((a * a * 7 + 3 * a) % 11);
      for (const std::int64_t b : gone)
        loss += a < b ? 0.05 * static_cast<double>((a * 5 + b * 3) % 13) : 0.0;
    }
    return loss;
  }
  void restart() override { ran_.assign(1, {}); }
  std::size_t fork(std::size_t stream) override {
    ran_.push_back(LayerSet(ran_[stream]));
    return ran_.size() - 1;
  }
  void load_block(std::int64_t layer) override { layer_ = layer; }
  void run(std::size_t stream) override { ran_[stream].insert(layer_); }
  void run_with(std::size_t, const KeptUnits&) override { ADD_FAILURE(); }
  std::vector<std::vector<double>> run_scored(std::size_t, const std::string&) override { return {}; }
  double mean_cosine(std::size_t, std::size_t) override { return 0.0; }
  std::vector<double> final_changes() override { return {}; }
  double loss(std::size_t stream) override {
    LayerSet gone;
    for (std::int64_t layer = 0; layer < layers_; ++layer)
      if (!ran_[stream].contains(layer)) gone.insert(layer);
    return loss_without(gone);
  }

 private:
  std::int64_t layers_, layer_ = 0;
  std::vector<LayerSet> ran_;
};

TEST(LayerChoice, ExchangesEndWhereNoneHelps) {
  constexpr std::int64_t kLayers = 9;
  CountedStreams trials(kLayers);
  for (const LayerSet& start : {LayerSet{0, 1, 2}, LayerSet{2, 4, 8}, LayerSet{5}, LayerSet{1, 3, 5, 6, 8}}) {
    const ExchangedLayers found = exchange_layers(trials, kLayers, {start}, {});
    ASSERT_EQ(found.layers.size(), start.size());
    EXPECT_DOUBLE_EQ(found.loss, CountedStreams::loss_without(found.layers));
    EXPECT_LE(found.loss, CountedStreams::loss_without(start));
    EXPECT_EQ(found.exchanges > 0, found.layers != start);
    for (const std::int64_t back : found.layers) {
      for (std::int64_t layer = 0; layer < kLayers; ++layer) {
        LayerSet other = found.layers;
        other.erase(back);
        if (!other.insert(layer).second) continue;
        EXPECT_GE(CountedStreams::loss_without(other), found.loss) << back << " for " << layer;
      }
    }
  }
  // Of two starts the better one; what all starts lack is never run.
  EXPECT_EQ(exchange_layers(trials, kLayers, {LayerSet{0, 1, 2}, LayerSet{0, 1, 3}}, {}).loss,
            exchange_layers(trials, kLayers,
                            {CountedStreams::loss_without({0, 1, 2}) < CountedStreams::loss_without({0, 1, 3})
                                 ? LayerSet{0, 1, 2}
                                 : LayerSet{0, 1, 3}},
                            {})
                .loss);
}

TEST(LayerChoice, GreedyTakesTheLowestEachTime) {
  constexpr std::int64_t kLayers = 9;
  CountedStreams trials(kLayers);
  const GreedyLayers greedy = greedy_layers(trials, kLayers, 3, {});
  EXPECT_DOUBLE_EQ(greedy.dense_loss, 1.0);
  LayerSet gone;
  for (std::size_t n = 0; n < 3; ++n) {
    double lowest = std::numeric_limits<double>::infinity();
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      LayerSet next = gone;
      if (next.insert(layer).second) lowest = std::min(lowest, CountedStreams::loss_without(next));
    }
    gone.insert(greedy.order[n]);
    EXPECT_DOUBLE_EQ(greedy.losses[n], lowest);
    EXPECT_DOUBLE_EQ(CountedStreams::loss_without(gone), lowest);
  }
}

TEST(ShapeChoice, MixesByMeasuredLoss) {
  const auto model = Model::open(tiny("llama3"));
  const auto backend = make_cpu_backend();
  const ShapeRequest request{0.4, {UnitKind::kMlp, UnitKind::kHeads, UnitKind::kLayers}, 1};
  const auto trials = make_trial_streams(*model, *backend, random_windows(*model), ComputeType::kF32);
  const ShapeChoice choice = choose_shape(model->config(), request, *trials, {});
  EXPECT_NEAR(ratio_of(model->config(), choice.shape), 0.4, 0.02);
  EXPECT_EQ(std::ssize(choice.removed_layers), model->config().num_layers() - choice.shape.layers);
  EXPECT_TRUE(choice.measured.contains("widths"));
}

// ---- chains

TEST(Shrink, ThenPruneThenPack) {
  const TempDir dir;
  const auto dense = Model::open(tiny("llama2"));
  const auto backend = make_cpu_backend();
  const TokenWindows windows = random_windows(*dense);
  {
    ShrinkShape shape = shape_of(dense->config());
    shape.channels = 24;
    shape.groups = 2;
    ShrunkCheckpoint output(*dense, shape, {}, dir.path() / "shrunk");
    shrink(*dense, *backend, shape, {}, windows, {}, output);
    output.finish({{"method", "shrink"}});
  }
  const auto shrunk = Model::open(dir.path() / "shrunk");
  EXPECT_EQ(previous_record(shrunk->checkpoint()).at("method"), "shrink");
  EXPECT_TRUE(previous_record(dense->checkpoint()).is_null());
  {
    std::vector<PlannedTensor> plan = plan_like(shrunk->checkpoint());
    for (PlannedTensor& tensor : plan) tensor.dtype = DType::kBF16;  // packing takes 16-bit weights
    CheckpointWriter writer(dir.path() / "pruned", plan);
    test::Collected output(shrunk->checkpoint());
    prune(*shrunk, *backend, uniform_plan(*shrunk, {parse_pattern("2:4"), 0.5, parse_score("wanda"), {}}, {}),
          windows, {}, output);
    for (const TensorInfo& tensor : shrunk->checkpoint().tensors()) {
      std::vector<float> values(static_cast<std::size_t>(tensor.numel()));
      convert_to_f32(shrunk->checkpoint().bytes(tensor), tensor.dtype, values);
      writer.write(tensor.name, output.tensors.contains(tensor.name) ? output.values(tensor.name) : values);
    }
    writer.copy_other_files(shrunk->checkpoint());
    writer.finish();
  }
  const auto pruned = Model::open(dir.path() / "pruned");
  std::vector<std::string> weights;
  for (const BlockConfig& block : pruned->config().blocks) {
    for (const LinearTensors& linear : linears_of(block)) weights.push_back(linear.name + ".weight");
  }
  PackOptions pack;
  pack.quantize = Quantize::kInt8;
  pack_checkpoint(pruned->checkpoint(), weights, dir.path() / "packed", pack);
  const auto packed = Model::open(dir.path() / "packed");
  const Matrix expected = logits_of(*pruned, *backend, windows),
               found = logits_of(*packed, *backend, windows);
  EXPECT_LT(std::sqrt(squared_error(found, expected) /
                      squared_error(expected, Matrix::zeros(expected.rows(), expected.cols()))),
            0.03);
  test::expect_error(
      ErrorKind::kBadInput,
      [&] {
        ShrinkShape shape = shape_of(packed->config());
        ShrunkCheckpoint output(*packed, shape, {}, dir.path() / "again");
        shrink(*packed, *backend, shape, {}, windows, {}, output);
      },
      "a packed model cannot be shrunk; make it dense first: swiftprune unpack");
}

TEST(Shrink, UnknownCompensation) {
  test::expect_error(
      ErrorKind::kUsage, [] { parse_compensation("some"); },
      "--compensate: found 'some', expected auto, none, bias, refit or aligned");
}

}  // namespace
}  // namespace swiftprune
