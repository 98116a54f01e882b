#include "swiftprune/pilot/pilot.h"

#include <map>
#include <numeric>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "evaluation/pruned_copy.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/device/device.h"

namespace swiftprune {
namespace {

using test::expect_error;
using test::kTinyModel;
using test::TempDir;
using ::testing::HasSubstr;

std::vector<std::int32_t> counting(std::int32_t n) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

TEST(SplitTextTest, HalvesDoNotOverlap) {
  const PilotText text = split_text(counting(2100), "t", 4096, 1 << 20, 1 << 20);
  EXPECT_EQ(text.calibration.seqlen, 256);  // 1050 tokens hold four windows of 256
  EXPECT_EQ(text.calibration.num_windows(), 4);
  EXPECT_EQ(text.calibration.ids.front(), 0);
  const TokenWindows& evaluation = text.evaluation.at(0).windows;
  EXPECT_EQ(evaluation.ids.front(), 1050);
  EXPECT_EQ(evaluation.num_windows(), 4);
  EXPECT_LT(text.calibration.ids.back(), 1050);
}

TEST(SplitTextTest, KeepsToLimits) {
  const PilotText text = split_text(counting(100000), "t", 160, 300, 512);
  EXPECT_EQ(text.calibration.seqlen, 128);  // the model has 160 positions
  EXPECT_EQ(text.calibration.num_windows(), 2);
  EXPECT_EQ(text.evaluation.at(0).windows.num_windows(), 4);
  // Four windows are measured where the limit allows it.
  EXPECT_EQ(split_text(counting(100000), "t", 160, 300, 500).calibration.seqlen, 64);
  EXPECT_EQ(split_text(counting(100000), "t", 160, 300, 1).evaluation.at(0).windows.num_windows(), 1);
  expect_error(ErrorKind::kBadInput, [] { split_text(counting(511), "own.txt", 160, 300, 300); },
               {"own.txt", "found 511 tokens", "at least 512"});
}

class PilotTest : public ::testing::Test {
 protected:
  PilotTest() {
    std::mt19937 random(2);
    for (int i = 0; i < 1200; ++i) {
      ids_.push_back(
          static_cast<std::int32_t>(random() % static_cast<unsigned>(model_->config().vocab_size)));
    }
    text_ = split_text(ids_, "t", model_->config().max_positions, 512, 512);
    options_.model = kTinyModel.string();
    options_.text = "own text.txt";
    options_.work = folder_.path();
    options_.methods = {"fast", "magnitude"};
    options_.sparsities = {0.3, 0.7};
  }
  ComparisonReport run() { return run_pilot(*model_, *device_, text_, options_); }

  TempDir folder_;
  std::unique_ptr<Model> model_ = Model::open(kTinyModel);
  std::unique_ptr<Device> device_ = open_device("cpu");
  std::vector<std::int32_t> ids_;
  PilotText text_;
  PilotOptions options_;
};

TEST_F(PilotTest, TriesEverythingAndCleansUp) {
  const ComparisonReport report = run();
  ASSERT_EQ(report.models.size(), 1u + 2u * 3u);
  EXPECT_FALSE(report.models[0].divergence);
  for (std::size_t m = 1; m < report.models.size(); ++m) {
    const ModelReport& trial = report.models[m];
    EXPECT_GT(trial.summary.sparsity, 0.25) << trial.summary.name;
    EXPECT_LT(*trial.packed_bytes, report.models[0].summary.num_bytes) << trial.summary.name;
    EXPECT_GT(*trial.decode_tokens_per_second, 0.0);
    if (m > 1) {
      EXPECT_LE(report.models[m - 1].divergence->perplexity_ratio, trial.divergence->perplexity_ratio);
    }
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  EXPECT_EQ(report.commands.size(), 6u);
}

TEST_F(PilotTest, RecommendsTheSparsestWithinTheLimit) {
  options_.max_perplexity_ratio = 1e9;
  const ComparisonReport all = run();
  EXPECT_THAT(all.recommended, HasSubstr("70 %"));
  EXPECT_THAT(*all.recommendation, HasSubstr("swiftprune prune"));
  EXPECT_THAT(*all.recommendation, HasSubstr("--sparsity 0.7"));
  options_.max_perplexity_ratio = 1e-9;
  const ComparisonReport none = run();
  EXPECT_EQ(none.recommended, none.models[1].summary.name);  // the lowest ratio
  EXPECT_THAT(none.notes[0], HasSubstr("No trial stays within"));
}

TEST_F(PilotTest, KeepsToItsTime) {
  options_.budget_seconds = 1e-9;
  const ComparisonReport report = run();
  EXPECT_EQ(report.models.size(), 2u);  // one trial at least
  EXPECT_THAT(report.notes.back(), HasSubstr("Left out"));
}

// A model with experts: fewer of them, too.
class ExpertPilotTest : public PilotTest {
 protected:
  ExpertPilotTest() {
    model_ = Model::open(SWIFTPRUNE_TEST_DATA "/experts/qwen3_moe");  // three of seven experts a token
    for (std::int32_t& id : ids_) id %= 60;
    text_ = split_text(ids_, "t", model_->config().max_positions, 512, 512);
    options_.model = "moe";
    options_.methods = {"magnitude"};
    options_.sparsities = {0.1};
    options_.patterns.clear();
  }
};

TEST_F(ExpertPilotTest, TriesExpertRatios) {
  options_.max_perplexity_ratio = 1e9;
  options_.expert_ratios = {0.25, 0.5, 0.75};  // leave 5, 4 and 2 of 7
  const ComparisonReport report = run();
  ASSERT_EQ(report.models.size(), 4u);
  std::map<std::string, const ModelReport*> trials;
  for (const ModelReport& model : report.models) trials[model.summary.name] = &model;
  ASSERT_TRUE(trials.contains("25 % of experts out") && trials.contains("50 % of experts out"));
  const auto parameters = [&](const char* name) { return trials.at(name)->summary.num_parameters; };
  // Three parts of 12 x 24 and a row of the router, in two layers.
  EXPECT_EQ(parameters("25 % of experts out") - parameters("50 % of experts out"), 2 * (3 * 12 * 24 + 24));
  EXPECT_EQ(report.models[0].summary.num_parameters - parameters("25 % of experts out"),
            2 * 2 * (3 * 12 * 24 + 24));
  EXPECT_EQ(report.recommended, "50 % of experts out");
  EXPECT_EQ(*report.recommendation,
            "swiftprune shrink moe --out SHRUNK --units experts --ratio 0.5 --calibration 'own text.txt' "
            "--windows 8 "
            "--seqlen 64");
  bool passed_over = false;
  for (const std::string& note : report.notes) {
    passed_over = passed_over || note.find("Passed over 75 % of the experts: ") != std::string::npos;
  }
  EXPECT_TRUE(passed_over);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

TEST_F(PilotTest, BadOptions) {
  options_.methods = {"best of all"};
  expect_error(ErrorKind::kUsage, [&] { run(); }, {"--method", "best of all"});
  options_.methods = {"fast"};
  options_.patterns = {"block:2x2"};
  expect_error(ErrorKind::kUsage, [&] { run(); }, {"--pattern", "expected N:M"});
  options_.patterns.clear();
  options_.sparsities.clear();
  expect_error(ErrorKind::kUsage, [&] { run(); }, {"no --sparsity and no --pattern"});
}

}  // namespace
}  // namespace swiftprune
