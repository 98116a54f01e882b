// Searches over channels, head groups and layers of tiny models: what is put together computes what shrink writes, budgets
// are kept, and the plan is one that shrink runs.
#include "swiftprune/tune/unit_tune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/shrunk_models.h"
#include "support/expect_error.h"
#include "support/random_windows.h"
#include "support/temp_dir.h"
#include "support/thread_ranks.h"
#include "swiftprune/pipeline/shrink_plan.h"
#include "swiftprune/pipeline/shrunk_checkpoint.h"
#include "swiftprune/tune/tune_report.h"
#include "swiftprune/tune/width_store.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::largest_difference;
using test::logits_of;
using test::TempDir;
using test::tiny;
using ::testing::HasSubstr;
using Kind = TuneBudget::Kind;

std::unique_ptr<Model> shrunk_to(const Model& model, Device& device, const ShrinkShape& shape,
                                 const std::vector<std::int64_t>& removed, const TokenWindows& windows,
                                 Compensation compensation, const fs::path& out) {
  ShrunkCheckpoint output(model, shape, removed, out);
  ShrinkOptions options;
  options.compensation = compensation;
  device.shrink(model, shape, removed, windows, options, output);
  output.finish({{"method", "shrink"}});
  return Model::open(out);
}

// Biases; tensors that the file holds transposed; norms behind the output projections; blocks in parallel.
class WidthStoreTest : public ::testing::TestWithParam<const char*> {};

TEST_P(WidthStoreTest, ComposesWhatShrinkWrites) {
  const TempDir folder;
  const auto model = Model::open(tiny(GetParam()));
  const auto device = open_device("cpu");
  const ModelConfig& m = model->config();
  const TokenWindows windows = test::random_windows(*model);
  const ShrinkShape full = shape_of(m);
  ShrinkShape narrow = full;
  narrow.channels -= 8;
  if (!inseparable(m, UnitKind::kHeads)) narrow.groups -= 1;
  WidthStore store(folder.path(), *model, {narrow}, alone());
  ShrinkOptions options;
  options.compensation = Compensation::kRefit;
  store.solve(*device, windows, options);

  const std::vector<LayerLevel> alike(m.blocks.size(), {narrow.channels, narrow.groups});
  const auto composed = store.compose(alike, "alike");
  const auto expected =
      shrunk_to(*model, *device, narrow, {}, windows, Compensation::kRefit, folder.path() / "shrunk");
  const auto logits = [&](const Model& of) { return logits_of(of, device->host(), windows); };
  EXPECT_LT(largest_difference(logits(*Model::open(composed->path())), logits(*expected)), 2e-5);
  EXPECT_GT(largest_difference(logits(*model), logits(*expected)), 1e-4);

  std::vector<LayerLevel> one_gone(m.blocks.size(), {full.channels, full.groups});
  one_gone[1] = {};
  ShrinkShape shorter = full;
  --shorter.layers;
  const auto without =
      shrunk_to(*model, *device, shorter, {1}, windows, Compensation::kNone, folder.path() / "shorter");
  EXPECT_LT(
      largest_difference(logits(*Model::open(store.compose(one_gone, "gone")->path())), logits(*without)),
      2e-5);
}

INSTANTIATE_TEST_SUITE_P(Families, WidthStoreTest,
                         ::testing::Values("llama2", "qwen2", "gpt2", "gemma2", "phi", "llama_bias"));

class UnitTuneTest : public ::testing::Test {
 protected:
  UnitTuneTest() {
    text_ = split_for_tuning(test::random_windows(*model_, 12, 64), 4, "t");
    options_.folder = folder("levels");
    options_.identity = {{"run", 1}};
    options_.max_trials = 17;
    options_.align = 4;
    options_.units = {UnitKind::kMlp, UnitKind::kHeads};
  }
  fs::path folder(const std::string& name) {
    fs::create_directory(folder_.path() / name);
    return folder_.path() / name;
  }
  TunedPlan run(Kind kind, double value, Communicator& ranks = alone()) {
    options_.budget = {kind, value};
    return tune(*model_, *device_, text_, options_, ranks);
  }
  void expect_refused(Kind kind, double value, std::initializer_list<std::string> texts) {
    expect_error(
        ErrorKind::kUsage, [&] { run(kind, value); }, texts);
  }
  ShapeChoice read_back(const TunedPlan& found) {
    const std::string file = (folder_.path() / "plan.json").string();
    test::write_text(file, plan_document(found).dump());
    return read_shrink_plan(file, model_->config());
  }

  TempDir folder_;
  std::unique_ptr<Model> model_ = Model::open(tiny("llama2"));
  std::unique_ptr<Device> device_ = open_device("cpu");
  TuneText text_;
  TuneOptions options_;
};

TEST_F(UnitTuneTest, KeepsTheRatioAndFindsAPlanOfShrink) {
  const TunedPlan found = run(Kind::kRatio, 0.3);
  EXPECT_TRUE(found.keeps_budget);
  EXPECT_EQ(found.tuned, 2);
  EXPECT_GT(found.levels, 4u);
  EXPECT_GE(*found.best.ratio, 0.3 - 1e-9);
  EXPECT_LT(*found.best.ratio, 0.4);
  EXPECT_LE(found.best.search_kl, found.start.search_kl);
  ASSERT_TRUE(found.best.check_kl && found.start.check_kl);
  const ShapeChoice plan = read_back(found);
  EXPECT_NEAR(ratio_of(model_->config(), plan.shape), *found.best.ratio, 1e-9);
  EXPECT_TRUE(plan.removed_layers.empty());
  const auto shrunk = shrunk_to(*model_, *device_, plan.shape, {}, text_.calibration, Compensation::kRefit,
                                folder_.path() / "shrunk");
  double bytes = 0.0;
  for (const TensorInfo& tensor : shrunk->checkpoint().tensors())
    bytes += static_cast<double>(tensor.num_bytes());
  EXPECT_NEAR(found.best.bytes, bytes, 1.0);

  TuneReport report;
  report.result = found;
  report.budget = options_.budget;
  const auto json = to_json(report);
  EXPECT_EQ(json["best"]["ratio"], *found.best.ratio);
  EXPECT_FALSE(json["best"].contains("sparsity"));
  EXPECT_EQ(json["layers"], 2);
  const std::string page = to_html(report);
  for (const char* text : {"2 layers at up to", "Gone<small>", "size of the model", "30 % of the blocks"})
    EXPECT_THAT(page, HasSubstr(text));
  for (const char* text : {"Zeros", "Bits a weight", "Packed"})
    EXPECT_THAT(page, ::testing::Not(HasSubstr(text)));
}

TEST_F(UnitTuneTest, LayersGoAsAWhole) {
  options_.units = {UnitKind::kLayers};
  const TunedPlan found = run(Kind::kRatio, 0.5);
  EXPECT_TRUE(found.keeps_budget);
  EXPECT_NEAR(*found.best.ratio, 0.5, 1e-9);
  const ShapeChoice plan = read_back(found);
  EXPECT_EQ(plan.removed_layers.size(), 1u);
  EXPECT_EQ(plan.shape, (ShrinkShape{40, 4, 1}));
  options_.folder = folder("more");
  expect_refused(Kind::kRatio, 0.6, {"--ratio", "found 0.6", "at most 0.500", "add --units"});
}

TEST_F(UnitTuneTest, TheSameRunGoesOnWhereItWas) {
  const TunedPlan once = run(Kind::kRatio, 0.3);
  const auto written = fs::last_write_time(options_.folder / "levels.json");
  const TunedPlan again = run(Kind::kRatio, 0.3);
  EXPECT_EQ(plan_document(again), plan_document(once));
  EXPECT_EQ(again.best.search_kl, once.best.search_kl);
  EXPECT_EQ(fs::last_write_time(options_.folder / "levels.json"), written);
  options_.identity = {{"run", 2}};
  expect_refused(Kind::kRatio, 0.3, {"--cache", "another run"});
}

TEST_F(UnitTuneTest, RanksFindThePlanOfOneProcess) {
  const TunedPlan one = run(Kind::kRatio, 0.3);
  TuneOptions shared = options_;
  shared.folder = folder("shared");
  test::ThreadRanks(2).run([&](Communicator& ranks) {
    const auto device = open_device("cpu");
    const TunedPlan found = tune(*model_, *device, text_, shared, ranks);
    EXPECT_EQ(plan_document(found), plan_document(one));
    EXPECT_EQ(found.best.search_kl, one.best.search_kl);
  });
}

TEST_F(UnitTuneTest, OtherBudgets) {
  double bytes = 0.0;
  for (const TensorInfo& tensor : model_->checkpoint().tensors())
    bytes += static_cast<double>(tensor.num_bytes());
  const TunedPlan small = run(Kind::kBytes, 0.8 * bytes);
  EXPECT_TRUE(small.keeps_budget);
  EXPECT_LE(small.best.bytes, 0.8 * bytes + 1.0);
  EXPECT_GT(small.best.bytes, 0.7 * bytes);
  options_.folder = folder("kl");
  options_.max_trials = 41;
  const double limit = small.best.search_kl;
  const TunedPlan within = run(Kind::kDivergence, limit);
  EXPECT_TRUE(within.keeps_budget);
  EXPECT_LE(within.best.search_kl, limit);
  EXPECT_GT(*within.best.ratio, 0.0);
  options_.folder = folder("speed");
  const double dense = 1e3 / device_->decode_time(*model_, ComputeType::kF32).total_ms;
  expect_refused(Kind::kSpeed, 1e-3 * dense, {"--budget", "expected between", "the dense model", "tokens/s"});
}

TEST_F(UnitTuneTest, BudgetsThatCannotBeMet) {
  expect_refused(Kind::kRatio, 0.97, {"--ratio", "found 0.97", "expected at most"});
  expect_refused(Kind::kBytes, 10.0, {"--budget", "expected between", "nothing in its blocks"});
  expect_refused(Kind::kBytes, 1e9, {"--budget", "expected between", "the dense model"});
  expect_refused(Kind::kSparsity, 0.5, {"--sparsity", "found with --units", "--ratio"});
  expect_refused(Kind::kBits, 3.0, {"--budget", "found with --units"});
  options_.units.clear();
  expect_refused(Kind::kRatio, 0.5, {"--ratio: found without --units"});
  model_ = Model::open(tiny("gpt2"));
  options_.units = {UnitKind::kHeads};
  expect_refused(Kind::kRatio, 0.1, {"--units: heads cannot be removed from this model"});
}

}  // namespace
}  // namespace swiftprune
