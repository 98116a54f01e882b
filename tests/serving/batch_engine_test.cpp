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
      engine.start({.lane = static_cast<std::int64_t>(lane), .positions = kCapacity});
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
    // A new one is read beside them, in chunks.
    ASSERT_TRUE(engine.joins_prompts());
    engine.start({.lane = 2, .source = 2, .positions = kCapacity});
    sequences.emplace_back();
    for (const std::size_t chunk : {5u, 1u, 2u}) {
      for (std::size_t lane = 0; lane < 2; ++lane) {
        next[lane] = ids[chunk + lane];
        sequences[lane].push_back(next[lane]);
      }
      const auto prompt = ids.subspan(sequences[2].size(), chunk);
      sequences[2].insert(sequences[2].end(), prompt.begin(), prompt.end());
      const ConstMatrixView both = engine.decode_beside(next, 2, prompt);
      ASSERT_EQ(both.rows, 3);
      for (std::int64_t lane = 0; lane < 3; ++lane)
        expect_near(row_of(both, lane), alone(sequences[static_cast<std::size_t>(lane)]));
    }
  }
  set_num_threads(0);
}

// A lane that takes over another's first positions goes on as if it had read them itself, and the other as if nothing were.
TEST(BatchEngine, TakenOverBeginningsGiveWhatReadingThemGives) {
  set_num_threads(1);
  const auto backend = make_cpu_backend();
  for (const std::string& name : test::model_names()) {
    SCOPED_TRACE(name);
    const auto model = Model::open(test::kModels / name);
    const TokenWindows windows = test::Expected(name).windows();
    const std::span<const std::int32_t> ids(windows.ids);
    constexpr std::int64_t kCapacity = 20;
    BatchEngine engine(*model, *backend, ComputeType::kF32, 2, kCapacity, nullptr);
    const auto alone = [&](std::span<const std::int32_t> sequence) {
      Generator generator(*model, *backend, ComputeType::kF32, 1, kCapacity);
      return row_of(generator.append(sequence), 0);
    };
    engine.start({.lane = 0, .source = 0, .positions = kCapacity});
    engine.prefill(0, ids.first(9));
    const auto shared = engine.start({.lane = 1, .source = 0, .shared = 6, .positions = 12});
    ASSERT_TRUE(shared);
    EXPECT_EQ(*shared, model->config().has_recurrent_blocks() ? 0 : 6);
    std::vector<std::int32_t> other(ids.begin(), ids.begin() + 6);
    for (const std::int32_t id : {ids[7], ids[3]}) other.push_back(id);
    expect_near(row_of(engine.prefill(1, std::span(other).subspan(static_cast<std::size_t>(*shared))), 0),
                alone(other));
    expect_near(row_of(engine.prefill(0, ids.subspan(9, 2)), 0), alone(ids.first(11)));
    // Its own, too.
    const auto own = engine.start({.lane = 0, .source = 0, .shared = 4, .positions = kCapacity});
    ASSERT_TRUE(own);
    expect_near(row_of(engine.prefill(0, ids.subspan(static_cast<std::size_t>(*own),
                                                     static_cast<std::size_t>(5 - *own))),
                       0),
                alone(ids.first(5)));
  }
  set_num_threads(0);
}

TEST(BatchEngine, LanesShareTheMemoryOfTheCache) {
  const auto backend = make_cpu_backend();
  const auto model = Model::open(test::kModels / "llama2");
  const auto& config = model->config();
  // Keys and values of a page in float.
  const std::int64_t page =
      2 * config.num_layers() * config.num_kv_heads * config.head_size * 4 * LanePages::kPositions;
  BatchEngine engine(*model, *backend, ComputeType::kF32, 3, 200, nullptr,
                     static_cast<std::uint64_t>(3 * page + 5));
  EXPECT_EQ(engine.capacity(), 192);  // of one lane alone: three pages
  EXPECT_EQ(engine.cache_memory().limit, 3 * page);
  EXPECT_TRUE(engine.start({.lane = 0, .source = 0, .positions = 65}));
  EXPECT_EQ(engine.cache_memory().used, 2 * page);
  EXPECT_FALSE(engine.start({.lane = 1, .source = 1, .positions = 65}));
  EXPECT_TRUE(engine.start({.lane = 1, .source = 1, .positions = 64}));
  engine.swap(0, 2);  // a lane's pages go with it
  engine.prefill(2, std::vector<std::int32_t>{1, 2, 3});
  engine.trim(2);
  EXPECT_EQ(engine.cache_memory().used, 2 * page);
  EXPECT_TRUE(engine.start({.lane = 0, .source = 2, .shared = 2, .positions = 10}));
  engine.drop(0);
  engine.drop(1);
  engine.drop(2);
  EXPECT_EQ(engine.cache_memory().used, 0);
  EXPECT_THROW(
      BatchEngine(*model, *backend, ComputeType::kF32, 3, 200, nullptr, static_cast<std::uint64_t>(page - 1)),
      Error);
}

}  // namespace
}  // namespace swiftprune
