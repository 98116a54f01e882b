#include "swiftprune/pilot/equal_bytes.h"

#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "evaluation/pruned_copy.h"
#include "support/expect_error.h"
#include "support/random_windows.h"
#include "support/temp_dir.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/model.h"

namespace swiftprune {
namespace {

using test::kTinyModel;
using test::TempDir;

ModelReport measured(const char* name, std::int64_t bytes, double kl, bool few_bits) {
  ModelReport model;
  model.summary.name = name;
  model.summary.num_bytes = bytes;
  model.perplexity.emplace();
  model.divergence.emplace();
  model.divergence->mean_kl = kl;
  model.few_bits = few_bits;
  return model;
}

TEST(EqualBytesTest, TheRivalIsTheBestThatIsNoLarger) {
  ComparisonReport report;
  report.models.emplace_back().summary.num_bytes = 1000;
  report.models.push_back(measured("pruned", 400, 0.2, false));
  EXPECT_TRUE(equal_bytes(report).empty());
  report.models.push_back(measured("int8", 500, 0.01, true));
  report.models.push_back(measured("int4", 405, 0.1, true));
  report.models.push_back(measured("int3", 300, 0.4, true));
  const EqualBytes found = equal_bytes(report).at(0);
  EXPECT_EQ(found.rival, "int4");  // within kSameBytes
  EXPECT_FALSE(found.is_larger);
  EXPECT_FALSE(found.wins());
  report.models[1].packed_bytes = 390;
  EXPECT_EQ(equal_bytes(report).at(0).rival, "int3");
  EXPECT_TRUE(equal_bytes(report).at(0).wins());
  report.models[1].packed_bytes = 200;
  EXPECT_EQ(equal_bytes(report).at(0).rival, "int3");
  EXPECT_TRUE(equal_bytes(report).at(0).is_larger);
}

class CompareAtEqualBytesTest : public ::testing::Test {
 protected:
  CompareAtEqualBytesTest() {
    ids_ = test::random_windows(*model_, 4, 32).ids;
    input_.models = {model_.get(), model_.get()};
    input_.folders = {kTinyModel.string(), "again"};
    input_.text = "own text";
    ScoredWindows part{TokenWindows{32, ids_}, {}};
    part.first_target.assign(4, 1);
    input_.parts = {part};
    options_.calibration = [this] {
      ++num_calibrations_;
      return TokenWindows{32, ids_};
    };
    options_.calibration_source = "other text";
    options_.work = folder_.path();
    options_.model = "ORG/NAME";  // as the user wrote it, wherever it lies
  }

  static std::vector<std::string> names(const ComparisonReport& report) {
    std::vector<std::string> list;
    for (const ModelReport& model : report.models) list.push_back(model.summary.name);
    return list;
  }

  TempDir folder_;
  std::unique_ptr<Model> model_ = Model::open(kTinyModel);
  std::unique_ptr<Device> device_ = open_device("cpu");
  std::vector<std::int32_t> ids_;
  ComparisonInput input_;
  EqualBytesOptions options_;
  int num_calibrations_ = 0;
};

TEST_F(CompareAtEqualBytesTest, TheDenseModelStandsBesideInFewBits) {
  options_.solve_all = true;
  const ComparisonReport report = compare_at_equal_bytes(input_, *device_, options_);
  ASSERT_EQ(report.models.size(), 2u + 3u * 2u);
  EXPECT_EQ(num_calibrations_, 1);
  ASSERT_EQ(report.equal_bytes.size(), 1u);
  EXPECT_DOUBLE_EQ(report.models[1].divergence->mean_kl, 0.0);
  EXPECT_TRUE(report.equal_bytes[0].wins());
  for (std::size_t m = 2; m < report.models.size(); ++m) {
    const ModelReport& model = report.models[m];
    EXPECT_TRUE(model.few_bits);
    EXPECT_TRUE(model.summary.packed);
    EXPECT_LT(model.summary.bits_per_weight, report.models[m < 4 ? 0 : m - 2].summary.bits_per_weight);
    EXPECT_GT(model.divergence->mean_kl, 0.0) << model.summary.name;
    EXPECT_FALSE(model.block_errors);
  }
  EXPECT_LT(report.models[2].divergence->mean_kl, report.models[6].divergence->mean_kl);  // int8, int3
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  EXPECT_THAT(report.commands,
              ::testing::Contains(::testing::HasSubstr("quantize ORG/NAME --out int3-best --quantize int3")));
  EXPECT_THAT(to_html(report), ::testing::HasSubstr("Size and divergence"));
  EXPECT_THAT(to_markdown(report), ::testing::HasSubstr(report.equal_bytes[0].line()));
  EXPECT_EQ(to_json(report)["equal_bytes"].size(), 1u);
}

// The dense model once more: no rounded one beats it, so the best that is no larger has to be solved, and it alone.
TEST_F(CompareAtEqualBytesTest, WhatRoundingDoesNotSettleIsSolved) {
  std::set<std::string> stages;
  input_.forward.progress = [&](std::string_view stage, std::int64_t, std::int64_t) {
    stages.emplace(stage);
  };
  const ComparisonReport report = compare_at_equal_bytes(input_, *device_, options_);
  EXPECT_THAT(names(report), ::testing::ElementsAre(kTinyModel.filename().string(), "again", "dense int8 rtn",
                                                    "dense int8 best", "dense int4 rtn", "dense int3 rtn"));
  EXPECT_EQ(report.equal_bytes.at(0).rival, "dense int8 best");
  EXPECT_THAT(report.notes, ::testing::ElementsAre(::testing::HasSubstr(
                                "int8 was solved, on 4 windows of 32 tokens from other text")));
  EXPECT_THAT(stages, ::testing::Contains("dense int8 best: prune"));
}

// Half of the weights gone, at nine bits each: rounding to eight is better, and solving would only add to that.
TEST_F(CompareAtEqualBytesTest, WhatARoundedOneBeatsIsNotSolved) {
  test::write_changed(folder_.path() / "pruned", test::zeros(1, 2));
  const auto pruned = Model::open(folder_.path() / "pruned");
  input_.models[1] = pruned.get();
  const ComparisonReport report = compare_at_equal_bytes(input_, *device_, options_);
  EXPECT_THAT(names(report), ::testing::ElementsAre(kTinyModel.filename().string(), "again", "dense int8 rtn",
                                                    "dense int4 rtn", "dense int3 rtn"));
  EXPECT_FALSE(report.equal_bytes.at(0).wins());
  EXPECT_EQ(num_calibrations_, 0);
  EXPECT_THAT(report.notes, ::testing::ElementsAre(::testing::HasSubstr("not solved")));
}

TEST_F(CompareAtEqualBytesTest, NeedsATextAndADenseModel) {
  input_.parts.clear();
  test::expect_error(ErrorKind::kUsage, [&] { compare_at_equal_bytes(input_, *device_, options_); },
                     {"--equal-bytes", "expected --text"});
}

}  // namespace
}  // namespace swiftprune
