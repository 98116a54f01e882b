// Chunks of prompts on a machine whose times are known: seconds = fixed + tokens · each.
#include "swiftprune/serving/chunk_pace.h"

#include <gtest/gtest.h>

namespace swiftprune {
namespace {

struct Machine {
  double fixed, token, step;
};

// The last of many chunks beside running answers, each in a pass of its own.
std::int64_t settled(ChunkPace& pace, const Machine& machine, std::int64_t answers = 4,
                     std::int64_t prompts = 1) {
  std::int64_t tokens = 0;
  for (int i = 0; i < 100; ++i) {
    pace.add_step(answers, machine.step);
    tokens = pace.next(answers, prompts);
    pace.add_chunk(tokens, machine.fixed + machine.token * static_cast<double>(tokens));
  }
  return tokens;
}

// The same in the passes of the answers' steps; how many of 1000 had no chunk.
std::int64_t settled_beside(ChunkPace& pace, const Machine& machine, std::int64_t answers,
                            std::int64_t& alone) {
  std::int64_t tokens = 0;
  for (int i = 0; i < 1000; ++i) {
    if (!pace.knows_step(answers)) {
      pace.add_step(answers, machine.step);
      ++alone;
      continue;
    }
    tokens = pace.next(answers, 1);
    pace.add_both(answers, tokens, machine.step + machine.token * static_cast<double>(tokens));
  }
  return tokens;
}

TEST(ChunkPace, NobodyWaitsForTheWholeChunk) {
  ChunkPace pace(256);
  EXPECT_EQ(pace.next(0, 1), 256);
  pace.add_step(1, 0.001);
  pace.add_chunk(256, 1.0);
  EXPECT_EQ(pace.next(0, 1), 256);
}

TEST(ChunkPace, BeforeAnythingIsKnownOfChunksTheyAreSmall) {
  ChunkPace pace(256);
  pace.add_step(1, 0.01);
  EXPECT_EQ(pace.next(1, 1), 16);
}

TEST(ChunkPace, AChunkTakesAsLongAsItsStepsAllow) {
  ChunkPace pace(256);
  const Machine machine{.fixed = 0.004, .token = 0.0002, .step = 0.020};
  const auto tokens = settled(pace, machine);
  const double seconds = machine.fixed + machine.token * static_cast<double>(tokens);
  EXPECT_LE(seconds, ChunkPace::kStepsAChunk * machine.step * 1.01);
  EXPECT_GT(seconds + machine.token * 2 * ChunkPace::kMultiple, ChunkPace::kStepsAChunk * machine.step);
  EXPECT_EQ(tokens % ChunkPace::kMultiple, 0);
}

// What it adds to a step, not the pass of both.
TEST(ChunkPace, InAPassForBothItIsTheChunkThatCounts) {
  ChunkPace pace(256);
  const Machine machine{.fixed = 0.0, .token = 0.0005, .step = 0.020};
  std::int64_t alone = 0;
  const auto tokens = settled_beside(pace, machine, 4, alone);
  EXPECT_EQ(tokens, 48);  // 60 fit into one and a half steps
  // Steps alone are measured again, but rarely.
  EXPECT_GE(alone, 2);
  EXPECT_LE(alone, 1000 / ChunkPace::kFresh + 1);
}

TEST(ChunkPace, AStepOfNearlyAsManyAnswersTellsEnough) {
  ChunkPace pace(256);
  EXPECT_FALSE(pace.knows_step(1));
  pace.add_step(7, 0.02);
  EXPECT_TRUE(pace.knows_step(7));
  EXPECT_TRUE(pace.knows_step(8));
  EXPECT_FALSE(pace.knows_step(16));
  EXPECT_FALSE(pace.knows_step(6));
}

TEST(ChunkPace, StaysBetweenTheLeastAndTheMost) {
  ChunkPace slow(256);
  EXPECT_EQ(settled(slow, {.fixed = 1.0, .token = 0.01, .step = 0.001}), 16);
  ChunkPace fast(256);
  EXPECT_EQ(settled(fast, {.fixed = 0.0, .token = 1e-6, .step = 0.1}), 256);
  ChunkPace tiny(3);
  EXPECT_EQ(settled(tiny, {.fixed = 1.0, .token = 0.01, .step = 0.001}), 1);
}

// More answers at a time make longer steps, and so longer chunks.
TEST(ChunkPace, FollowsWhatChanges) {
  ChunkPace pace(256);
  const auto before = settled(pace, {.fixed = 0.001, .token = 0.0005, .step = 0.020});
  EXPECT_GT(settled(pace, {.fixed = 0.001, .token = 0.0005, .step = 0.060}), 2 * before);
}

// One answer is being written and eight wait for their first token: who waits counts alike.
TEST(ChunkPace, ManyThatWaitMakeLongerChunks) {
  ChunkPace few(256), many(256);
  const Machine machine{.fixed = 0.0, .token = 0.0005, .step = 0.020};
  EXPECT_EQ(settled(few, machine, 4, 4), 48);
  EXPECT_EQ(settled(many, machine, 4, 8), 112);  // three steps: 120
}

}  // namespace
}  // namespace swiftprune
