// Chunks of prompts on a machine whose times are known: seconds = fixed + tokens · each.
#include "swiftprune/serving/chunk_pace.h"

#include <gtest/gtest.h>

namespace swiftprune {
namespace {

struct Machine {
  double fixed, token, step;
};

// The last of many chunks beside running answers.
std::int64_t settled(ChunkPace& pace, const Machine& machine) {
  std::int64_t tokens = 0;
  for (int i = 0; i < 100; ++i) {
    pace.add_step(machine.step);
    tokens = pace.next(true);
    pace.add_chunk(tokens, machine.fixed + machine.token * static_cast<double>(tokens));
  }
  return tokens;
}

TEST(ChunkPace, NobodyWaitsForTheWholeChunk) {
  ChunkPace pace(256);
  EXPECT_EQ(pace.next(false), 256);
  pace.add_step(0.001);
  pace.add_chunk(256, 1.0);
  EXPECT_EQ(pace.next(false), 256);
}

TEST(ChunkPace, BeforeAnythingIsKnownOfChunksTheyAreSmall) {
  ChunkPace pace(256);
  pace.add_step(0.01);
  EXPECT_EQ(pace.next(true), 16);
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

}  // namespace
}  // namespace swiftprune
