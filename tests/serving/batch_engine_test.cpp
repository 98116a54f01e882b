// Sequences of different lengths decoded together give what each gives alone, for every family.
#include "swiftprune/serving/batch_engine.h"

#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/model/generator.h"

namespace swiftprune {
namespace {

std::vector<float> row_of(ConstMatrixView logits, std::int64_t row) {
  return {logits.row(row), logits.row(row) + logits.cols};
}

void expect_near(const std::vector<float>& found, const std::vector<float>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-4) << i;
}

TEST(BatchEngine, GivesWhatEachSequenceGivesAlone) {
  set_num_threads(1);
  const auto backend = make_cpu_backend();
  for (const std::string& name : test::model_names()) {
    SCOPED_TRACE(name);
    const auto model = Model::open(test::kModels / name);
    const TokenWindows windows = test::Expected(name).windows();
    const std::span<const std::int32_t> ids(windows.ids);
    constexpr std::int64_t kCapacity = 20;
    BatchEngine engine(*model, *backend, ComputeType::kF32, 3, kCapacity, nullptr);
    const std::size_t lengths[] = {3, 7, 12};
    std::vector<std::vector<std::int32_t>> sequences;
    for (std::size_t lane = 0; lane < 3; ++lane) {
      const auto prompt = ids.subspan(lane, lengths[lane]);
      sequences.emplace_back(prompt.begin(), prompt.end());
      engine.restart(static_cast<std::int64_t>(lane));
      engine.prefill(static_cast<std::int64_t>(lane), prompt.first(2));  // in chunks
      engine.prefill(static_cast<std::int64_t>(lane), prompt.subspan(2));
    }
    const auto alone = [&](const std::vector<std::int32_t>& sequence) {
      Generator generator(*model, *backend, ComputeType::kF32, 1, kCapacity);
      return row_of(generator.append(sequence), 0);
    };
    for (std::int32_t step = 0; step < 3; ++step) {
      std::vector<std::int32_t> next;
      for (auto& sequence : sequences) {
        next.push_back(ids[sequence.size() + static_cast<std::size_t>(step)]);
        sequence.push_back(next.back());
      }
      const ConstMatrixView logits = engine.decode(next);
      ASSERT_EQ(logits.rows, 3);
      for (std::int64_t lane = 0; lane < 3; ++lane)
        expect_near(row_of(logits, lane), alone(sequences[static_cast<std::size_t>(lane)]));
    }
    // The first sequence ends: the last one takes its lane, two go on.
    engine.swap(0, 2);
    std::swap(sequences[0], sequences[2]);
    sequences.pop_back();
    std::vector<std::int32_t> next;
    for (auto& sequence : sequences) {
      next.push_back(ids[5]);
      sequence.push_back(ids[5]);
    }
    const ConstMatrixView logits = engine.decode(next);
    for (std::int64_t lane = 0; lane < 2; ++lane)
      expect_near(row_of(logits, lane), alone(sequences[static_cast<std::size_t>(lane)]));
  }
  set_num_threads(0);
}

}  // namespace
}  // namespace swiftprune
