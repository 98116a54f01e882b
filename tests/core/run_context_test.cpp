// Runs that stop and count apart, what a worker of a loop and a thread of the run see of it, and broken
// promises that are thrown, not the end of the process.
#include "swiftprune/core/run_context.h"

#include <atomic>
#include <future>
#include <latch>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "swiftprune/core/internal_error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

using ::testing::HasSubstr;

TEST(RunContext, TwoJobsStopApart) {
  std::stop_source first, second;
  std::latch bound(2);
  std::atomic<bool> first_ended = false, second_may_end = false;
  const auto job = [&](std::stop_token stop, std::atomic<bool>* ended) {
    const RunScope scope({.stop = stop});
    bound.arrive_and_wait();
    try {
      while (ended != nullptr || !second_may_end) check_interrupt();
    } catch (const Interrupted&) {
      if (ended != nullptr) *ended = true;
      return true;
    }
    return false;
  };
  auto one = std::async(std::launch::async, job, first.get_token(), &first_ended);
  auto two = std::async(std::launch::async, job, second.get_token(), nullptr);
  first.request_stop();
  EXPECT_TRUE(one.get());
  second_may_end = true;
  EXPECT_FALSE(two.get());             // never interrupted
  EXPECT_NO_THROW(check_interrupt());  // nor is this thread
}

TEST(RunContext, ScopesNestAndGiveThreadsBack) {
  std::stop_source source;
  const int before = num_threads();
  {
    const RunScope outer({.stop = source.get_token(), .threads = 3});
    EXPECT_EQ(num_threads(), 3);
    {
      const RunScope inner({.threads = 2});
      EXPECT_EQ(num_threads(), 2);
      source.request_stop();
      EXPECT_NO_THROW(check_interrupt());
    }
    EXPECT_EQ(num_threads(), 3);
    EXPECT_THROW(check_interrupt(), Interrupted);
  }
  EXPECT_EQ(num_threads(), before);
  EXPECT_NO_THROW(check_interrupt());
}

TEST(RunContext, WorkersOfALoopAreStopped) {
  std::stop_source source;
  const RunScope scope({.stop = source.get_token(), .threads = 4});
  std::atomic<int> stopped = 0, chunks = 0;
  source.request_stop();
  EXPECT_THROW(parallel_for(64, 1,
                            [&](std::int64_t, std::int64_t) {
                              ++chunks;
                              try {
                                check_interrupt();
                              } catch (const Interrupted&) {
                                ++stopped;
                                throw;
                              }
                            }),
               Interrupted);
  EXPECT_EQ(chunks, 64);
  EXPECT_EQ(stopped, 64);
  // A worker keeps nothing of the run behind it.
  const RunScope other({.threads = 4});
  EXPECT_NO_THROW(parallel_for(64, 1, [](std::int64_t, std::int64_t) { check_interrupt(); }));
}

TEST(RunContext, IsPassedOnToAThreadOfTheRun) {
  std::stop_source source;
  std::string told;
  const RunScope scope({.stop = source.get_token(),
                        .progress = [&](std::string_view stage, std::int64_t, std::int64_t) { told = stage; },
                        .threads = 2});
  source.request_stop();
  std::async(std::launch::async, [run = current_run(), &told] {
    EXPECT_NO_THROW(check_interrupt());
    const RunScope inner(run);
    EXPECT_EQ(num_threads(), 2);
    EXPECT_THROW(check_interrupt(), Interrupted);
    inner.context().progress("hash", 1, 1);
    EXPECT_EQ(told, "hash");
  }).get();
  std::thread([] { EXPECT_NO_THROW(current_run().progress("nobody listens", 0, 0)); }).join();
}

TEST(RunContext, InterruptsAreErrorsThatTellWhatWasKept) {
  EXPECT_STREQ(Interrupted().what(), "interrupted");
  EXPECT_STREQ(Interrupted("nothing was written").what(), "interrupted: nothing was written");
  EXPECT_EQ(Interrupted().kind(), ErrorKind::kInterrupted);
  EXPECT_EQ(Interrupted("nothing was written").kind(), ErrorKind::kInterrupted);
}

TEST(Expect, ThrowsWithThePlaceAndWithoutTheBuildersPath) {
  EXPECT_NO_THROW(expect(true, "nothing"));
  try {
    expect(false, "two and two");
    FAIL() << "expected InternalError";
  } catch (const InternalError& error) {
    EXPECT_THAT(error.what(), HasSubstr("run_context_test.cpp:"));
    EXPECT_THAT(error.what(), HasSubstr(": two and two; please report"));
  }
  EXPECT_THAT(InternalError("p", std::source_location::current()).what(), HasSubstr("internal error at "));
}

TEST(Expect, InsideALoopComesOutAfterAllChunks) {
  const RunScope scope({.threads = 4});
  std::atomic<int> chunks = 0;
  EXPECT_THROW(parallel_for(100, 10,
                            [&](std::int64_t first, std::int64_t) {
                              ++chunks;
                              expect(first != 30, "not the fourth");
                            }),
               InternalError);
  EXPECT_EQ(chunks, 10);
}

}  // namespace
}  // namespace swiftprune
