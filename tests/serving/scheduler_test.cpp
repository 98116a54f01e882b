// Requests in and events out: together they give what each gives alone; queue, cancelling, time limit and end.
#include "swiftprune/serving/scheduler.h"

#include <atomic>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "serving/faulty_engine.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/model/generator.h"
#include "swiftprune/serving/batch_engine.h"

namespace swiftprune {
namespace {

using std::chrono::seconds;
using test::finish;
using test::Result;

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

}  // namespace
}  // namespace swiftprune
