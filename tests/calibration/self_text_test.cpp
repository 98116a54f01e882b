// Text that the model writes itself: samples of its own distribution, the same ones for the same seed.
#include "swiftprune/calibration/self_text.h"

#include <cmath>

#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/model/generator.h"
#include "swiftprune/model/sampler.h"

namespace swiftprune {
namespace {

class SelfText : public ::testing::Test {
 protected:
  void SetUp() override { set_num_threads(1); }  // tiny products: threads would only wait for each other
  void TearDown() override { set_num_threads(0); }
  TokenWindows write(const SelfTextOptions& options) const {
    return self_text(
        [&](std::int64_t sequences, std::int64_t capacity) {
          return std::make_unique<Generator>(*model_, *backend_, ComputeType::kF32, sequences, capacity);
        },
        options);
  }

  std::unique_ptr<Model> model_ = Model::open(test::kModels / "llama2");
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  SelfTextOptions options_{
      .windows = 3, .seqlen = 16, .seed = 5, .first_token = 1, .sample_length = 8, .progress = {}};
};

TEST_F(SelfText, FillsTheWindowsWithSamplesThatBeginAlike) {
  const TokenWindows text = write(options_);
  EXPECT_EQ(text.seqlen, 16);
  ASSERT_EQ(text.ids.size(), 48u);
  for (std::size_t i = 0; i < text.ids.size(); ++i) {
    if (i % 8 == 0) {
      EXPECT_EQ(text.ids[i], 1) << i;
    }
    EXPECT_GE(text.ids[i], 0);
    EXPECT_LT(text.ids[i], model_->config().vocab_size);
  }
}

// Each sample is what the model's own generator and a sampler with the seed `seed + number` write, alone.
TEST_F(SelfText, EachSampleIsDrawnFromTheModelAlone) {
  options_.windows = 10;  // 20 samples: more than run side by side, and a last group that is not full
  const TokenWindows text = write(options_);
  for (const std::uint64_t sample : {0u, 7u, 8u, 19u}) {
    Generator generator(*model_, *backend_, ComputeType::kF32, 1, 8);
    Sampler sampler(SamplerOptions{1.0, 1.0, options_.seed + sample});
    std::vector<std::int32_t> expected = {1};
    while (expected.size() < 8)
      expected.push_back(sampler.next(generator.append(std::span(expected).last(1)).row_span(0)));
    const auto begin = text.ids.begin() + static_cast<std::ptrdiff_t>(8 * sample);
    EXPECT_EQ(std::vector<std::int32_t>(begin, begin + 8), expected) << sample;
  }
}

TEST_F(SelfText, TheSeedDecidesNotTheThreads) {
  set_num_threads(1);
  const TokenWindows text = write(options_);
  set_num_threads(3);
  EXPECT_EQ(write(options_).ids, text.ids);
  set_num_threads(0);
  options_.seed = 6000;
  EXPECT_NE(write(options_).ids, text.ids);
}

TEST_F(SelfText, WindowsThatSamplesDoNotDivide) {
  options_.windows = 2, options_.seqlen = 15, options_.sample_length = 8;
  EXPECT_EQ(write(options_).ids.size(), 30u);
  options_.sample_length = 512;  // one sample a window
  const TokenWindows text = write(options_);
  EXPECT_EQ(text.ids[0], 1);
  EXPECT_EQ(text.ids[15], 1);
}

TEST_F(SelfText, ProgressEndsAtTheWhole) {
  std::int64_t last = 0;
  options_.progress = [&](std::string_view stage, std::int64_t done, std::int64_t total) {
    EXPECT_EQ(stage, "writing calibration text");
    EXPECT_EQ(total, 48);
    EXPECT_GE(done, last);
    EXPECT_LE(done, total);
    last = done;
  };
  write(options_);
  EXPECT_EQ(last, 48);
}

}  // namespace
}  // namespace swiftprune
