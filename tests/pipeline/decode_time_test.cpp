#include "swiftprune/pipeline/decode_time.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace swiftprune {
namespace {

TEST(DecodeTime, RatioLeavesTheHeadAlone) {
  const DecodeTime dense{10.0, 2.0};  // 8 ms in the blocks
  EXPECT_DOUBLE_EQ(ratio_for(dense, 8.0), 0.25);
  EXPECT_DOUBLE_EQ(ratio_for(dense, 6.0), 0.5);
  for (const double target : {0.0, 2.0, 10.0, 11.0, -1.0}) {
    test::expect_error(
        ErrorKind::kUsage, [&] { ratio_for(dense, target); },
        "expected between 2.00 (the output projection alone) and 10.00 (the dense model");
  }
}

TEST(DecodeTime, MeasuresATinyModel) {
  const auto model = Model::open(SWIFTPRUNE_TEST_DATA "/model/llama2");
  const auto backend = make_cpu_backend();
  const DecodeTime time = measure_decode(*model, *backend, ComputeType::kF32);
  EXPECT_GT(time.head_ms, 0.0);
  EXPECT_GT(time.total_ms, time.head_ms);
}

}  // namespace
}  // namespace swiftprune
