// Pages of lanes against a plain model of them: every page has a value for each position written to it, and what a lane
// reads must be what it wrote or began with.
#include "swiftprune/model/lane_pages.h"

#include <map>
#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kPage = LanePages::kPositions;

std::vector<std::int32_t> pages_of(const LanePages& pages, std::int64_t lane) {
  return {pages.of(lane).begin(), pages.of(lane).end()};
}

TEST(LanePages, ALaneHasPagesForItsPositions) {
  LanePages pages(2);
  pages.add_pages(5);
  EXPECT_EQ(pages.num_used(), 0);
  EXPECT_FALSE(pages.start({.lane = 0, .source = 0, .positions = 2 * kPage + 1}));
  EXPECT_EQ(std::ssize(pages.of(0)), 3);
  EXPECT_EQ(pages.lacking({.lane = 1, .source = 1, .positions = 3 * kPage}), 1);
  EXPECT_EQ(pages.lacking({.lane = 1, .source = 1, .positions = 2 * kPage}), 0);
  // Its own pages count when a lane begins anew.
  EXPECT_EQ(pages.lacking({.lane = 0, .source = 0, .positions = 5 * kPage}), 0);
  pages.trim(0, kPage + 1);
  EXPECT_EQ(pages.num_used(), 2);
  pages.trim(0, 0);
  EXPECT_EQ(pages.num_used(), 0);
  EXPECT_EQ(pages.num_pages(), 5);
}

TEST(LanePages, FullPagesAreSharedAndTheLastIsCopied) {
  LanePages pages(3);
  pages.add_pages(10);
  pages.start({.lane = 0, .source = 0, .positions = 3 * kPage});
  const auto first = pages_of(pages, 0);
  const auto copy = pages.start({.lane = 1, .source = 0, .shared = 2 * kPage + 5, .positions = 4 * kPage});
  const auto second = pages_of(pages, 1);
  ASSERT_TRUE(copy);
  EXPECT_EQ(copy->from, first[2]);
  EXPECT_EQ(copy->to, second[2]);
  EXPECT_THAT(second, ::testing::ElementsAre(first[0], first[1], second[2], second[3]));
  EXPECT_EQ(pages.num_used(), 5);
  // Nothing to copy where the pages are full.
  EXPECT_FALSE(pages.start({.lane = 2, .source = 1, .shared = 2 * kPage, .positions = 2 * kPage}));
  EXPECT_EQ(pages.num_used(), 5);
  // They stay while one lane holds them.
  pages.trim(0, 0);
  pages.trim(1, 0);
  EXPECT_EQ(pages.num_used(), 2);
  EXPECT_THAT(pages_of(pages, 2), ::testing::ElementsAre(first[0], first[1]));
}

TEST(LanePages, ALaneGoesOnInItsOwnLastPage) {
  LanePages pages(2);
  pages.add_pages(4);
  pages.start({.lane = 0, .source = 0, .positions = 2 * kPage});
  const auto before = pages_of(pages, 0);
  EXPECT_FALSE(pages.start({.lane = 0, .source = 0, .shared = kPage + 3, .positions = 3 * kPage}));
  EXPECT_EQ(pages.of(0)[1], before[1]);
  // Not when another lane reads it, too: a page more, and a copy.
  pages.start({.lane = 1, .source = 0, .shared = 2 * kPage, .positions = 2 * kPage});
  const LaneStart again{.lane = 0, .source = 0, .shared = kPage + 3, .positions = 2 * kPage};
  const auto copy = pages.start(again);
  ASSERT_TRUE(copy);
  EXPECT_EQ(copy->from, pages.of(1)[1]);
  EXPECT_EQ(copy->to, pages.of(0)[1]);
  EXPECT_NE(pages.of(0)[1], pages.of(1)[1]);
}

// Any order of starts and trims: no page is written by one lane and read by another unless both began alike.
TEST(LanePages, RandomLanesReadWhatTheyHold) {
  constexpr std::int64_t kLanes = 5, kPages = 24;
  LanePages pages(kLanes);
  pages.add_pages(kPages);
  std::mt19937 engine(7);
  const auto below = [&](std::int64_t n) {
    return std::uniform_int_distribution<std::int64_t>(0, n - 1)(engine);
  };
  std::map<std::pair<std::int32_t, std::int64_t>, std::int64_t> memory;  // (page, row): value
  std::vector<std::vector<std::int64_t>> lanes(kLanes);                  // what each wrote or took over
  std::int64_t value = 0, starts = 0;
  for (int step = 0; step < 3000; ++step) {
    const auto lane = below(kLanes), source = below(kLanes);
    auto& text = lanes[static_cast<std::size_t>(lane)];
    const auto& other = lanes[static_cast<std::size_t>(source)];
    const LaneStart start{
        .lane = lane, .source = source, .shared = below(std::ssize(other) + 1), .positions = 0};
    LaneStart whole = start;
    whole.positions = std::max(start.shared, below(8 * kPage));
    if (pages.lacking(whole) > 0) {
      EXPECT_GT(pages.num_used(), 0);
      const auto length = below(std::ssize(text) + 1);
      pages.trim(lane, length);
      text.resize(static_cast<std::size_t>(length));
      continue;
    }
    ++starts;
    const auto copy = pages.start(whole);
    if (copy) {
      for (std::int64_t row = 0; row < kPage; ++row) memory[{copy->to, row}] = memory[{copy->from, row}];
    }
    std::vector<std::int64_t> next(other.begin(), other.begin() + start.shared);
    while (std::ssize(next) < whole.positions && below(20) > 0) {
      const auto position = std::ssize(next);
      memory[{pages.of(lane)[static_cast<std::size_t>(position / kPage)], position % kPage}] = ++value;
      next.push_back(value);
    }
    text = std::move(next);
    std::set<std::int32_t> held;
    for (std::int64_t l = 0; l < kLanes; ++l) {
      const auto& written = lanes[static_cast<std::size_t>(l)];
      held.insert(pages.of(l).begin(), pages.of(l).end());
      for (std::int64_t p = 0; p < std::ssize(written); ++p) {
        const auto found = memory[{pages.of(l)[static_cast<std::size_t>(p / kPage)], p % kPage}];
        ASSERT_EQ(found, written[static_cast<std::size_t>(p)])
            << "step " << step << " lane " << l << " at " << p;
      }
    }
    ASSERT_EQ(pages.num_used(), std::ssize(held));
  }
  EXPECT_GT(starts, 500);
}

TEST(LanePages, MemoryBecomesPages) {
  EXPECT_EQ(cache_pages(0, 1000, 7, "--x"), 7);
  EXPECT_EQ(cache_pages(5999, 1000, 7, "--x"), 5);
  EXPECT_EQ(cache_pages(99999, 1000, 7, "--x"), 7);
  try {
    cache_pages(999, 1000, 7, "--x");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("--x"));
  }
}

}  // namespace
}  // namespace swiftprune
