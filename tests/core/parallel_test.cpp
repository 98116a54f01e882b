#include "swiftprune/core/parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

namespace swiftprune {
namespace {

class Parallel : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { set_num_threads(GetParam()); }
  void TearDown() override { set_num_threads(0); }
};

TEST_P(Parallel, EveryIndexOnceInChunksThatDependOnTheSizeAlone) {
  for (const std::int64_t n : {0, 1, 7, 8, 9, 64, 1001}) {
    constexpr std::int64_t kChunk = 8;
    std::vector<std::atomic<int>> visits(static_cast<std::size_t>(n));
    std::atomic<int> wrong{0};
    parallel_for(n, kChunk, [&](std::int64_t first, std::int64_t last) {
      wrong += first % kChunk != 0 || last != std::min(n, first + kChunk);
      for (std::int64_t i = first; i < last; ++i) ++visits[static_cast<std::size_t>(i)];
    });
    EXPECT_EQ(wrong, 0);
    const std::vector<int> counts(visits.begin(), visits.end());
    EXPECT_THAT(counts, ::testing::Each(1)) << n;
  }
}

// Nothing of the body runs any more when the caller learns of the error: what the body uses may be freed.
TEST_P(Parallel, AnExceptionComesOutOnceNoChunkRuns) {
  std::atomic<int> running{0}, started{0};
  try {
    parallel_for(64, 1, [&](std::int64_t i, std::int64_t) {
      ++running, ++started;
      if (i == 5) {
        --running;
        throw std::out_of_range("chunk 5");
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      --running;
    });
    FAIL() << "expected the body's exception";
  } catch (const std::out_of_range& error) {
    EXPECT_STREQ(error.what(), "chunk 5");
  }
  EXPECT_EQ(running, 0);
  EXPECT_EQ(started, GetParam() == 1 ? 6 : 64);  // several threads go on with the other chunks
}

TEST_P(Parallel, OfSeveralExceptionsOneComesOut) {
  EXPECT_THROW(parallel_for(64, 1, [](std::int64_t, std::int64_t) { throw std::runtime_error("each"); }),
               std::runtime_error);
}

TEST_P(Parallel, NestedCallsStayOnTheirThread) {
  std::atomic<int> elsewhere{0};
  std::atomic<std::int64_t> sum{0};
  parallel_for(8, 1, [&](std::int64_t i, std::int64_t) {
    const std::thread::id here = std::this_thread::get_id();
    parallel_for(10, 1, [&](std::int64_t j, std::int64_t) {
      elsewhere += std::this_thread::get_id() != here;
      sum += 10 * i + j;
    });
  });
  EXPECT_EQ(elsewhere, 0);
  EXPECT_EQ(sum, 79 * 80 / 2);
}

TEST_P(Parallel, TheNumberOfThreadsIsTheOneAskedFor) { EXPECT_EQ(num_threads(), GetParam()); }

INSTANTIATE_TEST_SUITE_P(Threads, Parallel, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace swiftprune
