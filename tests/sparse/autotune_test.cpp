#include "swiftprune/sparse/autotune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "sparse/weights.h"
#include "support/temp_dir.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/sparse/linear.h"

namespace swiftprune {
namespace {

using testing_sparse::random_weight;

PackedTensor half_bitmap() {
  return pack(random_weight(64, 128, DType::kBF16, 0.5).view(), {PackedKind::kBitmap16});
}

TEST(Autotune, TakesTheFasterKindAndMeasuresOnce) {
  const test::TempDir dir;
  const std::filesystem::path file = dir.path() / "deep" / "autotune.json";
  const PackedTensor packed = half_bitmap();
  int measured = 0;
  {
    Autotuner tuner(file);
    tuner.set_stopwatch([&](const PackedTensor&, std::int64_t tokens, ComputeType) {
      ++measured;
      return tokens == 1 ? TuneResult{10.0, 15.0} : TuneResult{20.0, 15.0};
    });
    EXPECT_EQ(tuner.faster(packed, 1, ComputeType::kF32).kind(), PackedKind::kBitmap16);
    const PackedTensor dense = tuner.faster(packed, 64, ComputeType::kF32);
    EXPECT_EQ(dense.kind(), PackedKind::kDense16);
    EXPECT_EQ(unpack(dense), unpack(packed));
    tuner.faster(packed, 64, ComputeType::kF32);
    EXPECT_EQ(measured, 2);
    tuner.save();
  }
  Autotuner again(file);
  again.set_stopwatch([&](const PackedTensor&, std::int64_t, ComputeType) {
    ++measured;
    return TuneResult{1.0, 1.0};
  });
  EXPECT_DOUBLE_EQ(again.measure(packed, 64, ComputeType::kF32).packed_us, 20.0);
  EXPECT_EQ(measured, 2);
  again.measure(packed, 64, ComputeType::kBF16);  // another combination
  EXPECT_EQ(measured, 3);
}

// The file is shared with what measures other things.
TEST(Autotune, KeepsWhatOthersMeasured) {
  const test::TempDir dir;
  const std::filesystem::path file = dir.path() / "autotune.json";
  {
    Timings timings(file);
    timings.set("a GPU", {{"packed_us", 3.5}, {"structured_us", 0.0}});
    timings.save();
  }
  Autotuner tuner(file);
  tuner.set_stopwatch([](const PackedTensor&, std::int64_t, ComputeType) { return TuneResult{7.0, 8.0}; });
  tuner.measure(half_bitmap(), 1, ComputeType::kF32);
  tuner.save();
  const Timings both(file);
  ASSERT_NE(both.find("a GPU"), nullptr);
  EXPECT_EQ(*both.find("a GPU"), (Timings::Entry{{"packed_us", 3.5}, {"structured_us", 0.0}}));
  EXPECT_NE(both.find(Autotuner::key(half_bitmap(), 1, ComputeType::kF32)), nullptr);
}

TEST(Autotune, MeasuresAgainWhenAskedTo) {
  const test::TempDir dir;
  const std::filesystem::path file = dir.path() / "autotune.json";
  const PackedTensor packed = half_bitmap();
  const auto measured = [&](bool again, double us, std::int64_t tokens) {
    Autotuner tuner(file);
    if (again) tuner.measure_again();
    tuner.set_stopwatch([&](const PackedTensor&, std::int64_t, ComputeType) {
      return TuneResult{us, 100.0};
    });
    tuner.measure(packed, tokens, ComputeType::kF32);
    const double found = tuner.measure(packed, tokens, ComputeType::kF32).packed_us;
    tuner.save();
    return found;
  };
  EXPECT_DOUBLE_EQ(measured(false, 10.0, 1), 10.0);
  EXPECT_DOUBLE_EQ(measured(false, 11.0, 2), 11.0);
  EXPECT_DOUBLE_EQ(measured(true, 20.0, 1), 20.0);
  EXPECT_DOUBLE_EQ(measured(false, 30.0, 1), 20.0);  // the new one is kept
  EXPECT_DOUBLE_EQ(measured(false, 30.0, 2), 11.0);  // and what was not measured again
}

TEST(Autotune, UnsteadyTimesAreNotKept) {
  const test::TempDir dir;
  const std::filesystem::path file = dir.path() / "autotune.json";
  const PackedTensor packed = half_bitmap();
  int measured = 0;
  for (int run = 1; run <= 2; ++run) {
    Autotuner tuner(file);
    tuner.set_stopwatch([&](const PackedTensor&, std::int64_t, ComputeType) {
      ++measured;
      return TuneResult{10.0, 100.0, /*steady=*/false};
    });
    for (int i = 0; i < 3; ++i) EXPECT_DOUBLE_EQ(tuner.measure(packed, 1, ComputeType::kF32).packed_us, 10.0);
    EXPECT_EQ(measured, run);  // once a run
    tuner.save();
  }
}

TEST(Autotune, SaysThatItMeasures) {
  std::vector<std::int64_t> told;
  const RunScope scope({.progress = [&](std::string_view stage, std::int64_t done, std::int64_t) {
    EXPECT_EQ(stage, "measure kernels");
    told.push_back(done);
  }});
  Autotuner tuner({});
  tuner.set_stopwatch([](const PackedTensor&, std::int64_t, ComputeType) { return TuneResult{1.0, 1.0}; });
  for (const std::int64_t tokens : {1, 2, 1}) tuner.measure(half_bitmap(), tokens, ComputeType::kF32);
  EXPECT_THAT(told, ::testing::ElementsAre(1, 2));
}

TEST(Autotune, EqualWithinNoiseStaysPacked) {
  EXPECT_TRUE((TuneResult{102.0, 100.0}.packed_wins()));
  EXPECT_FALSE((TuneResult{105.0, 100.0}.packed_wins()));
}

TEST(Autotune, DamagedCacheIsEmpty) {
  const test::TempDir dir;
  const PackedTensor packed = half_bitmap();
  const std::string key = Autotuner::key(packed, 1, ComputeType::kF32);
  for (const std::string& content :
       {std::string("{"), std::string("[]"), std::string("null"), "{\"" + key + "\": 3}",
        "{\"" + key + "\": {\"packed_us\": -1, \"dense_us\": 1}}",
        "{\"" + key + "\": {\"packed_us\": \"x\"}}"}) {
    test::write_text(dir.path() / "cache.json", content);
    Autotuner tuner(dir.path() / "cache.json");
    tuner.set_stopwatch([](const PackedTensor&, std::int64_t, ComputeType) { return TuneResult{7.0, 8.0}; });
    EXPECT_DOUBLE_EQ(tuner.measure(packed, 1, ComputeType::kF32).packed_us, 7.0) << content;
  }
}

TEST(Autotune, MeasuresRealTimes) {
  Autotuner tuner({});
  const TuneResult result = tuner.measure(half_bitmap(), 1, ComputeType::kF32);
  EXPECT_GT(result.packed_us, 0.0);
  EXPECT_LT(result.packed_us, 1e6);
  EXPECT_GT(result.dense_us, 0.0);
  tuner.save();  // no file: nothing happens
}

TEST(Autotune, KeyTellsCombinationsApart) {
  const PackedTensor a = half_bitmap();
  const PackedTensor b = pack(random_weight(64, 128, DType::kBF16, 0.8).view(), {PackedKind::kBitmap16});
  EXPECT_NE(Autotuner::key(a, 1, ComputeType::kF32), Autotuner::key(b, 1, ComputeType::kF32));
  EXPECT_NE(Autotuner::key(a, 1, ComputeType::kF32), Autotuner::key(a, 2, ComputeType::kF32));
  EXPECT_EQ(Autotuner::key(a, 1, ComputeType::kF32), Autotuner::key(half_bitmap(), 1, ComputeType::kF32));
}

}  // namespace
}  // namespace swiftprune
