// What the report counts, on a tiny model: bytes are those of its tensors, every batch is there, the first
// model is the measure of all.
#include "swiftprune/evaluation/speed.h"

#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

TEST(Speed, CountsTheBytesOfAStepAndMeasuresEveryBatch) {
  set_num_threads(1);
  const auto model = Model::open(test::kModels / "llama2");  // F16, untied head, no sliding window
  const auto backend = make_cpu_backend();
  const auto target = make_cpu_speed_target(*backend, ComputeType::kF32, nullptr);
  SpeedOptions options;
  options.batches = {1, 3};
  options.prompt_tokens = 8;
  options.decode_tokens = 4;
  options.rounds = 2;
  const SpeedReport report = measure_speed({model.get(), model.get()}, *target, options);
  ASSERT_EQ(report.models.size(), 2u);
  EXPECT_GT(report.read_ceiling_bytes_per_second, 0.0);

  const ModelConfig& config = model->config();
  std::int64_t weights = config.vocab_size * config.hidden_size;
  for (const BlockConfig& block : config.blocks) {
    for (const LinearTensors& linear : linears_of(block)) weights += linear.outputs * linear.inputs;
  }
  for (const ModelSpeed& speed : report.models) {
    ASSERT_EQ(speed.batches.size(), 2u);
    for (std::size_t b = 0; b < 2; ++b) {
      const BatchSpeed& batch = speed.batches[b];
      EXPECT_EQ(batch.batch, options.batches[b]);
      const std::int64_t cached =
          2 * batch.batch * (8 + 2) * config.num_kv_heads * config.head_size * config.num_layers();
      EXPECT_GE(batch.bytes_per_step, 2 * weights + 4 * cached);
      EXPECT_LE(batch.bytes_per_step, 4 * weights + 4 * cached);  // tiny rows are padded
      EXPECT_GT(batch.prefill_tokens_per_second, 0.0);
      EXPECT_GT(batch.decode_tokens_per_second, 0.0);
      EXPECT_GT(batch.share_of_read_ceiling, 0.0);
    }
  }
  EXPECT_EQ(report.models[0].batches[0].decode_ratio, 1.0);
  EXPECT_EQ(report.models[0].batches[1].prefill_ratio, 1.0);
  set_num_threads(0);
}

}  // namespace
}  // namespace swiftprune
