#include "swiftprune/api/pilot_job.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <random>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "evaluation/pruned_copy.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/core/run_context.h"
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
    run_.text = split_text(ids_, "t", model_->config().max_positions, 512, 512);
    run_.model = kTinyModel.string();
    run_.work = folder_.path();
    job_.model = kTinyModel.string();
    job_.text = "own text.txt";
    job_.methods = {"fast", "magnitude"};
    job_.sparsities = {0.3, 0.7};
    job_.patterns = {"2:4"};
    job_.shrink_ratios.clear();
    job_.bits.clear();
  }
  ComparisonReport run() { return run_pilot(job_, run_, *model_, *device_); }

  TempDir folder_;
  std::unique_ptr<Model> model_ = Model::open(kTinyModel);
  std::unique_ptr<Device> device_ = open_device("cpu");
  std::vector<std::int32_t> ids_;
  PilotRun run_;
  PilotJob job_;
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

TEST_F(PilotTest, TheDefaultsBeginGently) {
  PilotJob job;
  job.model = job_.model;
  job.text = job_.text;
  job_ = job;
  job_.methods = {"fast"};
  ComparisonReport report = run();
  std::map<std::string, const ModelReport*> trials;
  for (const ModelReport& model : report.models) trials[model.summary.name] = &model;
  for (const char* name : {"fast 20 %", "fast 30 %", "fast 50 %", "fast 6:8", "fast 2:4", "int8", "int4"})
    EXPECT_TRUE(trials.contains(name)) << name;
  EXPECT_EQ(trials.at("int8")->few_bits, true);
  EXPECT_LT(trials.at("int4")->stored_bytes(), trials.at("int8")->stored_bytes());
  EXPECT_LT(*trials.at("fast 20 %")->first_blocks_error, *trials.at("fast 50 %")->first_blocks_error);
  EXPECT_LT(*trials.at("int8")->first_blocks_error, *trials.at("int4")->first_blocks_error);
  // 10 % of 40 channels are none when they go by 32s.
  const bool shrinks =
      trials.contains("shrink 10 %") || std::ranges::any_of(report.notes, [](const auto& note) {
        return note.starts_with("Passed over shrink 10 %: ");
      });
  EXPECT_TRUE(shrinks);
  const std::string page = to_html(report);
  EXPECT_THAT(page, HasSubstr("First blocks"));
  EXPECT_THAT(page, HasSubstr("Size and divergence"));
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  EXPECT_THAT(page, HasSubstr("Block by block"));
  std::erase_if(report.models,
                [](const ModelReport& model) { return model.summary.name.find(' ') != std::string::npos; });
  ASSERT_EQ(report.models.size(), 3u);  // the dense one, int8 and int4, of which there are no such figures
  EXPECT_THAT(to_html(report), ::testing::Not(HasSubstr("Block by block")));
}

TEST_F(PilotTest, RecommendsTheSmallestWithinTheLimitOrNone) {
  job_.max_perplexity_ratio = 1e9;
  const ComparisonReport all = run();
  EXPECT_THAT(all.recommended, HasSubstr("70 %"));
  EXPECT_THAT(*all.recommendation, HasSubstr("swiftprune prune"));
  EXPECT_THAT(*all.recommendation, HasSubstr("--sparsity 0.7"));
  EXPECT_THAT(to_html(all), HasSubstr("Recommended:"));
  job_.max_perplexity_ratio = 1e-9;
  const ComparisonReport none = run();
  EXPECT_EQ(none.recommended, "");
  EXPECT_FALSE(none.recommendation);
  const Verdict verdict = verdict_of(none);
  EXPECT_THAT(verdict.headline, HasSubstr("None is recommended: no trial stays within"));
  EXPECT_THAT(verdict.detail, HasSubstr("Nearest is " + none.models[1].summary.name));  // the lowest ratio
  EXPECT_TRUE(to_json(none).at("recommendation").is_null());
  EXPECT_THAT(to_html(none), ::testing::Not(HasSubstr("Recommended:")));
  EXPECT_THAT(to_markdown(none), ::testing::Not(HasSubstr("Recommended:")));
}

// What is no smaller than a trial that keeps the limit cannot be recommended, and comes last.
TEST_F(PilotTest, ATrialThatKeepsTheLimitIsFollowedBySmallerOnes) {
  job_.max_perplexity_ratio = 1e9;
  std::vector<std::string> order;
  {
    const RunScope scope({{},
                          [&](std::string_view stage, std::int64_t, std::int64_t) {
                            if (!stage.starts_with("trial ")) return;
                            const std::string whose(stage.substr(0, stage.find(": ")));
                            if (order.empty() || order.back() != whose) order.push_back(whose);
                          },
                          0});
    run();
  }
  ASSERT_EQ(order.size(), 6u);
  EXPECT_THAT(order[0], HasSubstr("30 %"));
  EXPECT_THAT(order[1], HasSubstr("2:4"));
  EXPECT_THAT(order[2], HasSubstr("70 %"));
}

// The gentlest is always tried, whatever the time, and on fewer windows.
TEST_F(PilotTest, KeepsToItsTime) {
  job_.minutes = 1e-9;
  const ComparisonReport report = run();
  ASSERT_EQ(report.models.size(), 2u);
  EXPECT_THAT(report.models[1].summary.name, HasSubstr("30 %"));
  EXPECT_THAT(report.models[1].summary.prune_command.back(), "128");
  EXPECT_THAT(report.notes, ::testing::Contains(HasSubstr("To end in time, 2 of 4 windows are measured")));
  EXPECT_THAT(report.notes.back(), HasSubstr("Left out"));
  EXPECT_THAT(report.notes.back(), HasSubstr("2:4"));
}

// The gentlest is not tried where it alone would take longer than all the time, and others would not.
TEST_F(PilotTest, ASlowOneIsLeftOutForThoseThatEnd) {
  job_.methods = {"fast"};
  // Four seconds in its first blocks, which are all: on the fewest windows 1.2 are expected, where less are left. The others
  // take a tenth of a second on a quiet machine; where even they do not end in time, another try.
  job_.minutes = 5.16 / 60.0;
  ComparisonReport report;
  for (int tries = 0; tries < 3; ++tries) {
    bool slow = true;
    const RunScope scope({{},
                          [&](std::string_view, std::int64_t, std::int64_t) {
                            if (std::exchange(slow, false))
                              std::this_thread::sleep_for(std::chrono::seconds(4));
                          },
                          0});
    report = run();
    if (report.models.at(1).summary.name != "fast 30 %") break;
  }
  ASSERT_GE(report.models.size(), 2u);
  for (std::size_t m = 1; m < report.models.size(); ++m)
    EXPECT_THAT(report.models[m].summary.name, ::testing::Not(HasSubstr("30 %")));
  EXPECT_THAT(report.notes.back(), HasSubstr("fast 30 %"));
}

// A model with experts: fewer of them, too.
class ExpertPilotTest : public PilotTest {
 protected:
  ExpertPilotTest() {
    model_ = Model::open(SWIFTPRUNE_TEST_DATA "/experts/qwen3_moe");  // three of seven experts a token
    for (std::int32_t& id : ids_) id %= 60;
    run_.text = split_text(ids_, "t", model_->config().max_positions, 512, 512);
    run_.model = "moe";
    job_.methods = {"magnitude"};
    job_.sparsities = {0.1};
    job_.patterns.clear();
  }
};

TEST_F(ExpertPilotTest, TriesExpertRatios) {
  job_.max_perplexity_ratio = 1e9;
  job_.expert_ratios = {0.25, 0.5, 0.75};  // leave 5, 4 and 2 of 7
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
  EXPECT_THAT(report.notes, ::testing::Contains(HasSubstr("Passed over 75 % of experts out: ")));
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

TEST_F(PilotTest, BadOptions) {
  job_.methods = {"best of all"};
  expect_error(ErrorKind::kUsage, [&] { run(); }, {"--method", "best of all"});
  job_.methods = {"fast"};
  job_.patterns = {"block:2x2"};
  expect_error(ErrorKind::kUsage, [&] { run(); }, {"--pattern", "expected N:M"});
  job_.patterns.clear();
  job_.sparsities.clear();
  expect_error(ErrorKind::kUsage, [&] { run(); }, {"found nothing to try", "--sparsity"});
  job_.sparsities = {0.5};
  job_.bits = {"int5"};
  job_.methods.clear();
  job_.sparsities.clear();
  expect_error(ErrorKind::kUsage, [&] { run(); }, {"int5"});
}

}  // namespace
}  // namespace swiftprune
