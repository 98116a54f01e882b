// Requests in and events out: together they give what each gives alone; queue, cancelling, time limit and
// end; what an error of one request or of the device ends, and what it does not.
#include "swiftprune/serving/scheduler.h"

#include <array>
#include <atomic>
#include <cmath>
#include <new>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/model/generator.h"
#include "swiftprune/serving/batch_engine.h"

namespace swiftprune {
namespace {

using std::chrono::seconds;

struct Result {
  std::vector<std::int32_t> tokens;
  FinishReason reason = FinishReason::kCancelled;
  std::string message;
};

Result finish(Generation& generation) {
  Result result;
  while (true) {
    const auto event = generation.next(seconds(60));
    if (!event) {
      ADD_FAILURE() << "no event within a minute";
      return result;
    }
    if (event->token) result.tokens.push_back(*event->token);
    if (event->finished) {
      result.reason = *event->finished;
      result.message = event->message;
      return result;
    }
  }
}

class SchedulerTest : public ::testing::Test {
 protected:
  void SetUp() override { set_num_threads(1); }
  void TearDown() override { set_num_threads(0); }
  std::unique_ptr<BatchEngine> engine(std::int64_t lanes) {
    return std::make_unique<BatchEngine>(*model_, *backend_, ComputeType::kF32, lanes, 60, nullptr);
  }
  static GenerationRequest request(std::int32_t seed, std::int64_t max_tokens) {
    GenerationRequest result;
    for (std::int32_t i = 0; i <= seed % 7; ++i) result.prompt.push_back((seed * 13 + i * 5) % 60);
    result.max_tokens = max_tokens;
    result.sampler.temperature = seed % 2 == 0 ? 0.0 : 1.0;
    result.sampler.seed = static_cast<std::uint64_t>(seed);
    return result;
  }

  std::unique_ptr<Model> model_ = Model::open(test::kModels / "llama2");
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
};

TEST_F(SchedulerTest, ManyTogetherGiveWhatEachGivesAlone) {
  std::vector<Result> alone;
  {
    const auto one = engine(1);
    Scheduler scheduler(*one, {});
    for (std::int32_t seed = 0; seed < 12; ++seed)
      alone.push_back(finish(*scheduler.submit(request(seed, 5 + seed))));
  }
  const auto four = engine(4);
  SchedulerOptions options;
  options.prefill_chunk = 3;
  Scheduler scheduler(*four, options);
  std::vector<std::shared_ptr<Generation>> running;
  for (std::int32_t seed = 0; seed < 12; ++seed) running.push_back(scheduler.submit(request(seed, 5 + seed)));
  std::int64_t tokens = 0;
  for (std::size_t i = 0; i < running.size(); ++i) {
    const Result result = finish(*running[i]);
    EXPECT_EQ(result.tokens, alone[i].tokens) << i;
    EXPECT_EQ(result.reason, FinishReason::kLength);
    EXPECT_EQ(result.tokens.size(), 5 + i);
    tokens += static_cast<std::int64_t>(result.tokens.size());
  }
  const SchedulerCounts counts = scheduler.counts();
  EXPECT_EQ(counts.accepted, 12);
  EXPECT_EQ(counts.finished, 12);
  EXPECT_EQ(counts.generated_tokens, tokens);
  EXPECT_LT(counts.steps, tokens);  // they shared steps
}

// A conversation: each prompt begins with the one before and its answer, which a lane still has.
TEST_F(SchedulerTest, WhatALaneHasReadIsNotReadAgain) {
  const auto converse = [&](bool reuses, std::int64_t lanes) {
    const auto of_lanes = engine(lanes);
    SchedulerOptions options;
    options.reuses_prompts = reuses;
    Scheduler scheduler(*of_lanes, options);
    std::vector<std::vector<std::int32_t>> answers;
    std::vector<std::int32_t> one = {3, 1, 4, 1, 5}, other = {2, 7, 1, 8};
    std::int64_t reused = 0;
    for (int turn = 0; turn < 3; ++turn) {
      for (std::vector<std::int32_t>* talk : {&one, &other}) {
        GenerationRequest request;
        request.prompt = *talk;
        request.max_tokens = 6;
        request.sampler.temperature = 0.0;
        const auto generation = scheduler.submit(std::move(request));
        const Result result = finish(*generation);
        reused += generation->reused();
        answers.push_back(result.tokens);
        talk->insert(talk->end(), result.tokens.begin(), result.tokens.end());
        talk->push_back(9);
      }
    }
    const SchedulerCounts counts = scheduler.counts();
    EXPECT_EQ(counts.reused_tokens, reused);
    // Of a prompt all but what the lane had not read: the answer's last token was never fed, and the new one.
    const std::int64_t all = 5 + 4 + (12 + 11) + (19 + 18);
    EXPECT_EQ(counts.prompt_tokens + reused, all);
    EXPECT_EQ(reused, !reuses ? 0 : lanes == 1 ? 0 : (5 + 5) + (4 + 5) + (12 + 5) + (11 + 5)) << lanes;
    return answers;
  };
  const auto expected = converse(false, 2);
  EXPECT_EQ(converse(true, 2), expected);
  EXPECT_EQ(converse(true, 1), expected);  // two talks take turns in one lane: nothing is shared
}

// Many with one beginning, which the first has read, at once and one after another: each gives what it gives without reuse.
TEST_F(SchedulerTest, OneBeginningOfManyIsReadOnce) {
  const std::vector<std::int32_t> beginning = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3};
  const auto answers = [&](bool reuses, std::int64_t& reused) {
    const auto four = engine(4);
    SchedulerOptions options;
    options.reuses_prompts = reuses;
    options.prefill_chunk = 5;
    Scheduler scheduler(*four, options);
    std::vector<std::shared_ptr<Generation>> running;
    for (std::int32_t i = 0; i < 9; ++i) {
      GenerationRequest request;
      request.prompt = beginning;
      request.prompt.push_back(10 + i);
      request.max_tokens = 5 + i;
      request.sampler.temperature = 0.0;
      running.push_back(scheduler.submit(std::move(request)));
    }
    std::vector<std::vector<std::int32_t>> result;
    for (const auto& generation : running) result.push_back(finish(*generation).tokens);
    reused = scheduler.counts().reused_tokens;
    return result;
  };
  std::int64_t reused = 0, none = 0;
  EXPECT_EQ(answers(true, reused), answers(false, none));
  EXPECT_EQ(reused, 8 * 16);
  EXPECT_EQ(none, 0);
}

TEST_F(SchedulerTest, ARepeatedPromptReadsItsLastTokenAgain) {
  const auto one = engine(1);
  Scheduler scheduler(*one, {});
  const std::vector<std::int32_t> prompt = {3, 1, 4, 1, 5, 9};
  std::vector<Result> results;
  for (const bool scored : {false, false, true}) {
    GenerationRequest request;
    request.prompt = prompt;
    request.max_tokens = 4;
    request.sampler.temperature = 0.0;
    request.prompt_logprobs = scored;
    const auto generation = scheduler.submit(std::move(request));
    results.push_back(finish(*generation));
    EXPECT_EQ(generation->reused(), results.size() == 2 ? 5 : 0);
  }
  EXPECT_EQ(results[1].tokens, results[0].tokens);
  // The prompt's tokens come with their chances, all of them.
  EXPECT_EQ(results[2].tokens.size(), prompt.size() + 4);
}

TEST_F(SchedulerTest, EndTokenEndsAndIsNotPartOfTheText) {
  const auto one = engine(1);
  Scheduler scheduler(*one, {});
  const Result free = finish(*scheduler.submit(request(0, 10)));
  GenerationRequest ended = request(0, 10);
  ended.end_tokens = {1000000, free.tokens[4]};
  const Result result = finish(*scheduler.submit(ended));
  EXPECT_EQ(result.reason, FinishReason::kStop);
  const auto first = std::find(free.tokens.begin(), free.tokens.end(), free.tokens[4]);
  EXPECT_EQ(result.tokens, std::vector<std::int32_t>(free.tokens.begin(), first));
}

TEST_F(SchedulerTest, AFullQueueRefusesAndCancelledOnesMakeRoom) {
  const auto one = engine(1);
  SchedulerOptions options;
  options.max_waiting = 2;
  Scheduler scheduler(*one, options);
  std::vector<std::shared_ptr<Generation>> accepted;
  bool refused = false;
  for (std::int32_t i = 0; i < 50; ++i) {
    auto generation = scheduler.submit(request(i, 50));
    refused |= generation == nullptr;
    if (generation != nullptr) accepted.push_back(std::move(generation));
  }
  EXPECT_TRUE(refused);
  for (const auto& generation : accepted) generation->cancel();
  for (const auto& generation : accepted) {
    // A waiting one that was cancelled gets no event; a running one ends.
    while (const auto event = generation->next(std::chrono::milliseconds(200))) {
      if (event->finished) break;
    }
  }
  const auto again = scheduler.submit(request(1, 5));
  ASSERT_NE(again, nullptr);
  EXPECT_EQ(finish(*again).tokens.size(), 5u);
  EXPECT_GE(scheduler.counts().refused, 1);
}

TEST_F(SchedulerTest, LateRequestsTimeOut) {
  const auto one = engine(1);
  SchedulerOptions options;
  options.timeout = seconds(0);
  Scheduler scheduler(*one, options);
  EXPECT_EQ(finish(*scheduler.submit(request(3, 40))).reason, FinishReason::kTimeout);
  EXPECT_EQ(scheduler.counts().timed_out, 1);
}

TEST_F(SchedulerTest, StopEndsEverything) {
  const auto one = engine(1);
  Scheduler scheduler(*one, {});
  std::vector<std::shared_ptr<Generation>> generations;
  for (std::int32_t i = 0; i < 5; ++i) generations.push_back(scheduler.submit(request(i, 50)));
  scheduler.stop();
  for (const auto& generation : generations) {
    const FinishReason reason = finish(*generation).reason;
    EXPECT_TRUE(reason == FinishReason::kShutdown || reason == FinishReason::kLength);
  }
  EXPECT_EQ(scheduler.submit(request(1, 5)), nullptr);
}

TEST_F(SchedulerTest, GivesAsManyTokensAsAskedFor) {
  const auto one = engine(1);
  Scheduler scheduler(*one, {});
  for (std::int64_t tokens = 0; tokens < 4; ++tokens) {
    const Result result = finish(*scheduler.submit(request(0, tokens)));
    EXPECT_EQ(std::ssize(result.tokens), tokens);
    EXPECT_EQ(result.reason, FinishReason::kLength);
  }
}

TEST_F(SchedulerTest, MinTokensHoldsTheEndBack) {
  const auto one = engine(1);
  Scheduler scheduler(*one, {});
  GenerationRequest ended = request(0, 10);
  ended.end_tokens = finish(*scheduler.submit(request(0, 10))).tokens;
  EXPECT_TRUE(finish(*scheduler.submit(ended)).tokens.empty());
  ended.min_tokens = 3;
  const Result result = finish(*scheduler.submit(ended));
  ASSERT_GE(result.tokens.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(std::count(ended.end_tokens.begin(), ended.end_tokens.end(), result.tokens[i]), 0);
  }
}

TEST_F(SchedulerTest, ReportsTheChancesOfPromptAndAnswer) {
  const auto two = engine(2);
  SchedulerOptions options;
  options.prefill_chunk = 3;
  Scheduler scheduler(*two, options);
  GenerationRequest scored = request(4, 3);
  scored.logprobs = 2;
  scored.prompt_logprobs = true;
  const auto generation = scheduler.submit(scored);
  // The same sequence, one token at a time.
  Generator alone(*model_, *backend_, ComputeType::kF32, 1, 60);
  std::size_t events = 0;
  ConstMatrixView logits;
  while (true) {
    const auto event = generation->next(seconds(60));
    ASSERT_TRUE(event);
    if (event->finished) break;
    EXPECT_EQ(event->of_prompt, events < scored.prompt.size());
    if (event->of_prompt) {
      EXPECT_EQ(*event->token, scored.prompt[events]);
    }
    ASSERT_EQ(event->chances.has_value(), events > 0);
    if (events > 0) {
      const TokenChances expected = token_chances(logits.row_span(0), *event->token, 2);
      EXPECT_NEAR(event->chances->logprob, expected.logprob, 1e-4);
      ASSERT_EQ(event->chances->top.size(), 2u);
      EXPECT_EQ(event->chances->top[0].id, expected.top[0].id);
    }
    logits = alone.append(std::vector{*event->token});
    ++events;
  }
  EXPECT_EQ(events, scored.prompt.size() + 3);
}

// Says "the next id" to every id, until something is wrong with one.
class FaultyEngine : public SequenceEngine {
 public:
  static constexpr std::int32_t kVocab = 50;
  static constexpr std::int32_t kNan = 40;       // its logits are NaN
  static constexpr std::int32_t kNoMemory = 41;  // std::bad_alloc when it comes in a prompt
  static constexpr std::int32_t kBroken = 42;    // a device error when it is decoded
  static constexpr std::int32_t kRefused = 43;   // an error of its request

  std::int64_t num_lanes() const override { return 4; }
  std::int64_t capacity() const override { return 1000; }
  std::optional<std::int64_t> start(const LaneStart&) override { return 0; }
  void trim(std::int64_t) override {}
  void drop(std::int64_t) override {}
  CacheMemory cache_memory() const override { return {}; }
  void swap(std::int64_t, std::int64_t) override {}
  ConstMatrixView prefill(std::int64_t, std::span<const std::int32_t> ids) override {
    return answer(ids.last(1));
  }
  ConstMatrixView decode(std::span<const std::int32_t> ids) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return answer(ids);
  }

 private:
  ConstMatrixView answer(std::span<const std::int32_t> ids) {
    logits_ = Matrix(std::ssize(ids), kVocab);
    for (std::int64_t lane = 0; lane < std::ssize(ids); ++lane) {
      const std::int32_t id = ids[static_cast<std::size_t>(lane)];
      if (id == kNoMemory) throw std::bad_alloc();
      if (id == kBroken) fail(ErrorKind::kDevice, "CUDA: an illegal memory access was encountered");
      if (id == kRefused) bad_input("token 0: found id 43");
      std::fill_n(logits_.row(lane), kVocab, id == kNan ? std::nanf("") : 0.0f);
      // Those that are fine stay among themselves.
      if (id != kNan) logits_.at(lane, id < 30 ? (id + 1) % 30 : id + 1) = 5.0f;
    }
    return logits_.view();
  }
  Matrix logits_;
};

GenerationRequest plain(std::vector<std::int32_t> prompt, std::int64_t max_tokens) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  return request;
}

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

}  // namespace
}  // namespace swiftprune
