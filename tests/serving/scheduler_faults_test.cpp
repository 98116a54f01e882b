// What an error of one request or of the device ends, and what it does not; an engine's memory; whose turn it is.
#include <array>
#include <atomic>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serving/faulty_engine.h"
#include "swiftprune/model/lane_pages.h"
#include "swiftprune/serving/scheduler.h"

namespace swiftprune {
namespace {

using std::chrono::seconds;
using test::FaultyEngine;
using test::finish;
using test::plain;
using test::Result;

TEST(SchedulerFaults, AnErrorOfOneRequestEndsOnlyThisRequest) {
  FaultyEngine engine;
  Scheduler scheduler(engine, {});
  const auto good = scheduler.submit(plain({1}, 30));
  const Result nan = finish(*scheduler.submit(plain({FaultyEngine::kNan}, 5)));
  EXPECT_EQ(nan.reason, FinishReason::kError);
  EXPECT_THAT(nan.message, ::testing::HasSubstr("not finite"));
  const Result memory = finish(*scheduler.submit(plain({FaultyEngine::kNoMemory}, 5)));
  EXPECT_EQ(memory.reason, FinishReason::kUnavailable);
  EXPECT_THAT(memory.message, ::testing::HasSubstr("out of memory"));
  const Result refused = finish(*scheduler.submit(plain({FaultyEngine::kRefused}, 5)));
  EXPECT_EQ(refused.reason, FinishReason::kError);
  EXPECT_THAT(refused.message, ::testing::HasSubstr("id 43"));
  EXPECT_EQ(finish(*good).tokens.size(), 30u);
  EXPECT_EQ(finish(*scheduler.submit(plain({1}, 3))).tokens, (std::vector<std::int32_t>{2, 3, 4}));
  EXPECT_EQ(scheduler.counts().failed, 3);
  EXPECT_EQ(scheduler.counts().running, 0);
  EXPECT_FALSE(scheduler.lost_engine());
}

// Decoding together: how far each got is unknown, so all that were in the step end; the next ones go on.
TEST(SchedulerFaults, AFailedStepEndsThoseInIt) {
  FaultyEngine engine;
  Scheduler scheduler(engine, {});
  const Result failed = finish(*scheduler.submit(plain({FaultyEngine::kNoMemory - 3}, 10)));
  EXPECT_EQ(failed.reason, FinishReason::kError);  // 40 comes first: not finite
  EXPECT_EQ(failed.tokens, (std::vector<std::int32_t>{39, 40}));
  EXPECT_EQ(finish(*scheduler.submit(plain({1}, 3))).tokens.size(), 3u);
}

TEST(SchedulerFaults, AfterADeviceErrorEverythingIsRefusedWithTheReason) {
  FaultyEngine engine;
  Scheduler scheduler(engine, {});
  const auto other = scheduler.submit(plain({1}, 900));
  const Result broken = finish(*scheduler.submit(plain({FaultyEngine::kBroken}, 5)));
  EXPECT_EQ(broken.reason, FinishReason::kUnavailable);
  EXPECT_THAT(broken.message, ::testing::HasSubstr("illegal memory access"));
  const FinishReason reason = finish(*other).reason;
  EXPECT_TRUE(reason == FinishReason::kUnavailable || reason == FinishReason::kError);
  ASSERT_TRUE(scheduler.lost_engine());
  EXPECT_THAT(*scheduler.lost_engine(), ::testing::HasSubstr("illegal memory access"));
  EXPECT_EQ(scheduler.submit(plain({1}, 3)), nullptr);
  EXPECT_EQ(scheduler.counts().running, 0);
  EXPECT_FALSE(scheduler.stopped());
}

TEST(SchedulerFaults, CountsAreTrueWhenIdle) {
  FaultyEngine engine;
  Scheduler scheduler(engine, {});
  const auto enough = scheduler.submit(plain({1}, 900));
  ASSERT_TRUE(enough->next(seconds(60)));
  enough->enough();
  enough->cancel();  // as a stream does at its end
  const auto gone = scheduler.submit(plain({1}, 900));
  ASSERT_TRUE(gone->next(seconds(60)));
  gone->cancel();
  while (scheduler.counts().running > 0 || scheduler.counts().waiting > 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(scheduler.counts().finished, 1);
  EXPECT_EQ(scheduler.counts().cancelled, 1);
}

// Lanes and queue together, however fast they come; more at once than there is room for are refused whole.
TEST(SchedulerFaults, ABurstThatFitsIsAccepted) {
  class SlowEngine : public FaultyEngine {
    ConstMatrixView prefill(std::int64_t lane, std::span<const std::int32_t> ids) override {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      return FaultyEngine::prefill(lane, ids);
    }
  } engine;
  SchedulerOptions options;
  options.max_waiting = 4;
  Scheduler scheduler(engine, options);
  std::vector<std::shared_ptr<Generation>> burst;
  for (int i = 0; i < 8; ++i) burst.push_back(scheduler.submit(plain({1}, 10)));
  for (const auto& generation : burst) {
    ASSERT_NE(generation, nullptr);
    EXPECT_EQ(finish(*generation).tokens.size(), 10u);
  }
  EXPECT_EQ(scheduler.submit(std::vector<GenerationRequest>(9, plain({1}, 2))).size(), 0u);
  EXPECT_EQ(scheduler.submit(std::vector<GenerationRequest>(8, plain({1}, 2))).size(), 8u);
}

// Memory for so many pages of keys and values: it says "the next id", and keeps account of what its lanes hold.
class PagedEngine : public FaultyEngine {
 public:
  explicit PagedEngine(std::int64_t pages) : pages_(4) { pages_.add_pages(pages); }
  std::int64_t capacity() const override { return pages_.num_pages() * LanePages::kPositions; }
  std::optional<std::int64_t> start(const LaneStart& start) override {
    const LaneStart of_place{place(start.lane), place(start.source), start.shared, start.positions};
    if (pages_.lacking(of_place) > 0) {
      ++refused;
      return std::nullopt;
    }
    pages_.start(of_place);
    positions_[static_cast<std::size_t>(of_place.lane)] = start.shared;
    most_used = std::max<std::int64_t>(most_used, pages_.num_used());
    return start.shared;
  }
  void trim(std::int64_t lane) override {
    pages_.trim(place(lane), positions_[static_cast<std::size_t>(place(lane))]);
  }
  void drop(std::int64_t lane) override {
    positions_[static_cast<std::size_t>(place(lane))] = 0;
    trim(lane);
  }
  CacheMemory cache_memory() const override { return {pages_.num_used(), pages_.num_pages()}; }
  void swap(std::int64_t a, std::int64_t b) override {
    std::swap(places_[static_cast<std::size_t>(a)], places_[static_cast<std::size_t>(b)]);
  }
  ConstMatrixView prefill(std::int64_t lane, std::span<const std::int32_t> ids) override {
    append(lane, std::ssize(ids));
    return FaultyEngine::prefill(lane, ids);
  }
  ConstMatrixView decode(std::span<const std::int32_t> ids) override {
    for (std::int64_t lane = 0; lane < std::ssize(ids); ++lane) append(lane, 1);
    return FaultyEngine::decode(ids);
  }

  std::atomic<std::int64_t> refused = 0, most_used = 0;

 private:
  std::int64_t place(std::int64_t lane) const { return places_[static_cast<std::size_t>(lane)]; }
  void append(std::int64_t lane, std::int64_t count) {
    std::int64_t& position = positions_[static_cast<std::size_t>(place(lane))];
    position += count;
    EXPECT_LE(position, std::ssize(pages_.of(place(lane))) * LanePages::kPositions);
  }
  LanePages pages_;
  std::array<std::int64_t, 4> places_ = {0, 1, 2, 3};
  std::array<std::int64_t, 4> positions_ = {};  // [place]
};

std::vector<std::int32_t> prompt_of(std::int32_t first, std::int64_t length) {
  std::vector<std::int32_t> prompt;
  for (std::int64_t i = 0; i < length; ++i) prompt.push_back((first + static_cast<std::int32_t>(i)) % 30);
  return prompt;
}

TEST(SchedulerMemory, RequestsWaitForMemoryAndNotForLanes) {
  PagedEngine engine(5);
  Scheduler scheduler(engine, {});
  // Two pages each: two run at a time, however many lanes there are.
  std::vector<std::shared_ptr<Generation>> running;
  for (std::int32_t i = 0; i < 8; ++i) running.push_back(scheduler.submit(plain(prompt_of(i, 60), 40)));
  for (std::int32_t i = 0; i < 8; ++i) {
    const Result result = finish(*running[static_cast<std::size_t>(i)]);
    EXPECT_EQ(result.reason, FinishReason::kLength);
    ASSERT_EQ(result.tokens.size(), 40u);
    EXPECT_EQ(result.tokens.front(), (i + 60) % 30);
  }
  EXPECT_GT(engine.refused, 0);
  EXPECT_LE(engine.most_used, 5);
  const SchedulerCounts counts = scheduler.counts();
  EXPECT_EQ(counts.finished, 8);
  EXPECT_EQ(counts.cache.limit, 5);
  EXPECT_LE(counts.cache.used, 5);
}

TEST(SchedulerMemory, TextsOfFreeLanesGoTheOldestFirst) {
  PagedEngine engine(4);
  Scheduler scheduler(engine, {});
  const auto reused = [&](std::int32_t first, std::int64_t length) {
    const auto generation = scheduler.submit(plain(prompt_of(first, length), 2));
    EXPECT_EQ(finish(*generation).reason, FinishReason::kLength);
    return generation->reused();
  };
  for (const std::int32_t first : {1, 2, 3}) EXPECT_EQ(reused(first, 50), 0);  // a page each
  EXPECT_EQ(reused(4, 100), 0);                                                // two pages: the oldest goes
  while (scheduler.counts().running > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(scheduler.counts().cache.used, 4);
  EXPECT_EQ(reused(2, 50), 49);
  EXPECT_EQ(reused(3, 50), 49);
  EXPECT_EQ(reused(1, 50), 0);
}

TEST(SchedulerMemory, WhatABusyLaneHasReadIsTakenOver) {
  for (const bool reuses : {true, false}) {
    PagedEngine engine(40);
    SchedulerOptions options;
    options.reuses_prompts = reuses;
    Scheduler scheduler(engine, options);
    const auto long_one = scheduler.submit(plain(prompt_of(1, 200), 500));
    ASSERT_TRUE(long_one->next(seconds(60)));
    auto prompt = prompt_of(1, 150);
    prompt.push_back(7);
    const auto other = scheduler.submit(plain(prompt, 3));
    EXPECT_EQ(finish(*other).tokens, (std::vector<std::int32_t>{8, 9, 10}));
    EXPECT_EQ(other->reused(), reuses ? 150 : 0);
    EXPECT_EQ(finish(*long_one).tokens.size(), 499u);
    // Two full pages of the beginning are held by both: 700 positions and 154, less those.
    if (reuses) {
      EXPECT_EQ(engine.most_used, 11 + 3 - 2);
    }
  }
}

TEST(SchedulerMemory, WhenTheFirstThatWaitsGoesTheNextMayFit) {
  PagedEngine engine(6);
  Scheduler scheduler(engine, {});
  const auto running = scheduler.submit(plain(prompt_of(1, 60), 200));  // five pages
  ASSERT_TRUE(running->next(seconds(60)));
  const auto large = scheduler.submit(plain(prompt_of(2, 100), 2));
  const auto small = scheduler.submit(plain(prompt_of(3, 10), 2));
  while (engine.refused == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(scheduler.counts().waiting, 2);
  large->cancel();
  EXPECT_EQ(finish(*small).tokens.size(), 2u);
  EXPECT_EQ(scheduler.counts().running, 1);
  running->cancel();
}

// A long prompt is read in chunks; a short one that comes behind it takes every other chunk. One as long waits.
TEST(SchedulerTurns, AShortPromptNeedNotWaitForALongOne) {
  class ChunkEngine : public FaultyEngine {
   public:
    ConstMatrixView prefill(std::int64_t lane, std::span<const std::int32_t> ids) override {
      chunks.push_back(ids.front());
      return FaultyEngine::prefill(lane, ids);
    }
    std::vector<std::int32_t> chunks;  // their first ids
  } engine;
  SchedulerOptions options;
  options.prefill_chunk = 4;
  options.reuses_prompts = false;
  {
    Scheduler scheduler(engine, options);
    std::vector<GenerationRequest> requests;
    for (const auto& [length, id] : {std::pair{400, 1}, {400, 2}, {8, 3}})
      requests.push_back(plain(std::vector<std::int32_t>(static_cast<std::size_t>(length), id), 3));
    for (const auto& generation : scheduler.submit(std::move(requests)))
      EXPECT_EQ(finish(*generation).tokens.size(), 3u);
  }
  const auto at = [&](std::int32_t id) {
    return std::find(engine.chunks.begin(), engine.chunks.end(), id) - engine.chunks.begin();
  };
  EXPECT_LE(at(3), 2);
  EXPECT_EQ(engine.chunks[static_cast<std::size_t>(at(3) + 1)], 1);  // in turns
  EXPECT_EQ(engine.chunks[static_cast<std::size_t>(at(3) + 2)], 3);
  EXPECT_GT(at(2), std::count(engine.chunks.begin(), engine.chunks.end(), 1) - 5);
}

}  // namespace
}  // namespace swiftprune
