// Experts with fewer inner channels: the folder, what was reported of it, and what cannot be narrowed.
#include "swiftprune/pipeline/drivers/narrow_experts.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "pipeline/first_expert_layer.h"
#include "support/expect_error.h"
#include "support/forwards.h"
#include "support/temp_dir.h"
#include "swiftprune/pipeline/narrow_checkpoint.h"

namespace swiftprune {
namespace {

using test::Expected;
using test::kExpertModels;

bool can_be_narrowed(const Model& model) {
  try {
    check_narrowable(model);
    return true;
  } catch (const Error&) {
    return false;
  }
}

class NarrowExperts : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!can_be_narrowed(*model_)) GTEST_SKIP() << "is refused by name";
  }
  NarrowExpertsResult run(std::int64_t width, bool refit, NarrowedExpertsOutput& output) const {
    NarrowExpertsOptions options;
    options.width = width;
    options.refit = refit;
    return narrow_experts(cpu_expert_shop(*backend_), *model_, windows_, options, output);
  }
  std::int64_t dense_width() const { return experts_of(model_->config())->width; }

  Expected expected_{GetParam()};
  TokenWindows windows_ = expected_.windows();
  std::unique_ptr<Model> model_ = Model::open(kExpertModels / GetParam());
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
};

TEST_P(NarrowExperts, FolderHoldsWhatWasComputed) {
  const std::int64_t width = dense_width() / 2;
  double change = 0.0;
  for (const bool refit : {false, true}) {
    const test::TempDir dir;
    NarrowCheckpoint output(*model_, width, dir.path() / "out");
    const NarrowExpertsResult result = run(width, refit, output);
    output.finish({{"method", "shrink mlp of experts"}});
    const auto narrow = Model::open(dir.path() / "out");
    EXPECT_EQ(experts_of(narrow->config())->width, width);
    EXPECT_EQ(experts_of(narrow->config())->count, experts_of(model_->config())->count);
    test::expect_reported_change(*model_, *narrow, result.layers.front().change, *backend_, windows_);
    if (refit) {
      EXPECT_LE(result.layers.front().change, change);
    }
    change = result.layers.front().change;
    EXPECT_GT(change, 0.0);
    for (const NarrowedLayer& layer : result.layers) {
      for (std::size_t e = 0; e < layer.tokens.size(); ++e) {
        const bool few = std::find(layer.by_weights.begin(), layer.by_weights.end(),
                                   static_cast<std::int64_t>(e)) != layer.by_weights.end();
        EXPECT_EQ(few, layer.tokens[e] < kMinNarrowTokens);
      }
    }
  }
}

// Takes what goes: nothing is written.
struct Counted final : NarrowedExpertsOutput {
  void write(std::int64_t, std::int64_t, std::span<const std::int64_t> kept, ConstMatrixView down) override {
    EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
    EXPECT_EQ(std::ssize(kept), down.cols);
    ++experts;
  }
  int experts = 0;
};

// A channel more than are left changes less.
TEST_P(NarrowExperts, FewerChannelsChangeMore) {
  double before = -1.0;
  for (const std::int64_t width : {dense_width() - 1, dense_width() / 2, std::int64_t{1}}) {
    Counted output;
    const NarrowExpertsResult result = run(width, true, output);
    EXPECT_GT(result.layers.front().change, before) << width;
    before = result.layers.front().change;
    EXPECT_EQ(output.experts, std::ssize(result.layers) * experts_of(model_->config())->count);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, NarrowExperts, ::testing::ValuesIn(test::expert_model_names()),
                         [](const auto& test) { return test.param; });

TEST(NarrowExpertsErrors, WhatCannotBeNarrowed) {
  const auto tied = Model::open(kExpertModels / "deepseek_v2");
  test::expect_error(ErrorKind::kUsage, [&] { check_narrowable(*tied); },
                     {"--units mlp", "shared experts", "moe_intermediate_size", "--units experts"});
  const auto blocks = Model::open(kExpertModels / "gpt_oss_mxfp4");
  test::expect_error(ErrorKind::kBadInput, [&] { check_narrowable(*blocks); }, {"MXFP4", "unpack"});
  const auto mixtral = Model::open(kExpertModels / "mixtral");
  const std::int64_t width = experts_of(mixtral->config())->width;
  EXPECT_EQ(width_for_ratio(*mixtral, 0.5, 1), width / 2);
  test::expect_error(ErrorKind::kUsage, [&] { width_for_ratio(*mixtral, 0.01, 32); }, {"--ratio", "--align"});
  test::expect_error(ErrorKind::kUsage, [&] { width_for_ratio(*mixtral, 1.5, 1); }, {"--ratio", "1.5"});
}

}  // namespace
}  // namespace swiftprune
