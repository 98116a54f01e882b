// Requests in and events out: together they give what each gives alone; queue, cancelling, time limit and
// end.
#include "swiftprune/serving/scheduler.h"

#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/serving/batch_engine.h"

namespace swiftprune {
namespace {

using std::chrono::seconds;

struct Result {
  std::vector<std::int32_t> tokens;
  FinishReason reason = FinishReason::kCancelled;
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

TEST_F(SchedulerTest, EndTokenEndsAndIsNotPartOfTheText) {
  const auto one = engine(1);
  Scheduler scheduler(*one, {});
  const Result free = finish(*scheduler.submit(request(0, 10)));
  GenerationRequest ended = request(0, 10);
  ended.end_token = free.tokens[4];
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

}  // namespace
}  // namespace swiftprune
