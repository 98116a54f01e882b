// Requests in and events out: together they give what each gives alone; queue, cancelling, time limit and
// end; what an error of one request or of the device ends, and what it does not.
#include "swiftprune/serving/scheduler.h"

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
  void restart(std::int64_t) override {}
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
