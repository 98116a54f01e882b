#include "swiftprune/evaluation/scored_windows.h"

#include <map>
#include <numeric>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/evaluation/evaluation_text.h"

namespace swiftprune {
namespace {

using test::expect_error;

std::vector<std::int32_t> counting(std::int32_t n) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
  std::iota(ids.begin(), ids.end(), 10);
  return ids;
}

// How often each id is scored.
std::map<std::int32_t, int> scored_ids(const std::vector<ScoredWindows>& parts) {
  std::map<std::int32_t, int> counts;
  for (const ScoredWindows& part : parts) {
    for (std::int64_t w = 0; w < part.windows.num_windows(); ++w) {
      const auto window = part.windows.window(w);
      for (auto t = part.first_target[static_cast<std::size_t>(w)]; t < part.windows.seqlen; ++t) {
        ++counts[window[static_cast<std::size_t>(t)]];
      }
    }
  }
  return counts;
}

TEST(ScoredWindowsTest, WindowsScoreAllButTheirFirstToken) {
  const auto parts = scored_windows(counting(11), "text", {.convention = Convention::kWindows, .seqlen = 4});
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_EQ(parts[0].windows.num_windows(), 2);
  EXPECT_EQ(parts[0].num_scored(), 6);
  EXPECT_EQ(scored_ids(parts),
            (std::map<std::int32_t, int>{{11, 1}, {12, 1}, {13, 1}, {15, 1}, {16, 1}, {17, 1}}));
}

TEST(ScoredWindowsTest, WindowsWithBosScoreEveryToken) {
  const auto parts =
      scored_windows(counting(6), "text", {.convention = Convention::kWindows, .seqlen = 4, .bos = 1});
  EXPECT_EQ(parts[0].windows.ids, (std::vector<std::int32_t>{1, 10, 11, 12, 1, 13, 14, 15}));
  EXPECT_EQ(parts[0].num_scored(), 6);
}

// llama.cpp scores positions n_ctx/2 + 1 .. n_ctx - 1 of each chunk (perplexity.cpp: first = n_ctx/2).
TEST(ScoredWindowsTest, LlamaCppScoresTheSecondHalf) {
  const auto parts = scored_windows(counting(17), "text", {.convention = Convention::kLlamaCpp, .seqlen = 8});
  EXPECT_EQ(scored_ids(parts),
            (std::map<std::int32_t, int>{{15, 1}, {16, 1}, {17, 1}, {23, 1}, {24, 1}, {25, 1}}));
}

TEST(ScoredWindowsTest, LlamaCppPutsBosInThePlaceOfTheFirstToken) {
  const auto parts =
      scored_windows(counting(7), "text", {.convention = Convention::kLlamaCpp, .seqlen = 4, .bos = 1});
  // The text with its BOS is 1 10 11 12 | 13 14 15 16.
  EXPECT_EQ(parts[0].windows.ids, (std::vector<std::int32_t>{1, 10, 11, 12, 1, 14, 15, 16}));
}

TEST(ScoredWindowsTest, StridedScoresEveryTokenOnce) {
  for (const std::int32_t n : {2, 7, 8, 9, 10, 11, 12, 13, 30}) {
    for (const std::int64_t stride : {1, 2, 3, 7}) {
      const auto parts = scored_windows(counting(n), "text",
                                        {.convention = Convention::kStrided, .seqlen = 8, .stride = stride});
      const auto counts = scored_ids(parts);
      EXPECT_EQ(std::ssize(counts), n - 1) << n << " " << stride;
      EXPECT_FALSE(counts.contains(10));
      for (const auto& [id, count] : counts) EXPECT_EQ(count, 1) << id;
    }
  }
}

TEST(ScoredWindowsTest, StridedWithoutOverlapLeavesOutEachWindowsFirstToken) {
  for (const std::int32_t n : {2, 7, 8, 9, 10, 16, 17, 30}) {
    const auto parts =
        scored_windows(counting(n), "text", {.convention = Convention::kStrided, .seqlen = 8, .stride = 8});
    const auto counts = scored_ids(parts);
    EXPECT_EQ(std::ssize(counts), n - (n + 7) / 8) << n;
    for (const auto& [id, count] : counts) EXPECT_NE((id - 10) % 8, 0) << id;
    for (const ScoredWindows& part : parts) {
      for (const std::int64_t first : part.first_target) EXPECT_EQ(first, 1);
    }
  }
}

TEST(ScoredWindowsTest, OneBosBeforeTheText) {
  const auto ids_of = [](Convention convention, std::int32_t bos) {
    const auto parts =
        scored_windows(counting(7), "text",
                       {.convention = convention, .seqlen = 4, .stride = 0, .bos = bos, .bos_once = true});
    return parts[0].windows.ids;
  };
  const std::vector<std::int32_t> cut = {1, 10, 11, 12, 13, 14, 15, 16};
  EXPECT_EQ(ids_of(Convention::kWindows, 1), cut);
  EXPECT_EQ(ids_of(Convention::kLlamaCpp, 1), cut);
  EXPECT_EQ(ids_of(Convention::kWindows, 10), (std::vector<std::int32_t>{10, 11, 12, 13}))
      << "a text that starts with it gets no second";
  EXPECT_EQ(std::ssize(scored_ids(scored_windows(
                counting(7), "text",
                {.convention = Convention::kStrided, .seqlen = 4, .bos = 1, .bos_once = true}))),
            7);
}

TEST(ScoredWindowsTest, StridedKeepsContext) {
  const auto parts =
      scored_windows(counting(13), "text", {.convention = Convention::kStrided, .seqlen = 8, .stride = 3});
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(parts[0].windows.num_windows(), 2);  // 0..7 and 3..10
  EXPECT_EQ(parts[0].first_target, (std::vector<std::int64_t>{1, 5}));
  EXPECT_EQ(parts[1].windows.ids, (std::vector<std::int32_t>{16, 17, 18, 19, 20, 21, 22}));  // 6..12
  EXPECT_EQ(parts[1].first_target, (std::vector<std::int64_t>{5}));
}

TEST(ScoredWindowsTest, StridedWithBosScoresTheFirstTokenToo) {
  const auto parts = scored_windows(counting(12), "text",
                                    {.convention = Convention::kStrided, .seqlen = 6, .stride = 2, .bos = 1});
  const auto counts = scored_ids(parts);
  EXPECT_EQ(counts.size(), 12u);
  for (const auto& [id, count] : counts) EXPECT_EQ(count, 1) << id;
  for (const ScoredWindows& part : parts) {
    for (std::int64_t w = 0; w < part.windows.num_windows(); ++w) EXPECT_EQ(part.windows.window(w)[0], 1);
  }
}

TEST(ScoredWindowsTest, BadInput) {
  const auto cut = [](std::int32_t n, ConventionOptions options) {
    return [=] { scored_windows(counting(n), "my.txt", options); };
  };
  expect_error(ErrorKind::kBadInput, cut(0, {.seqlen = 4}), {"my.txt", "empty"});
  expect_error(ErrorKind::kBadInput, cut(3, {.seqlen = 4}),
               {"my.txt", "found 3 tokens", "expected at least 4"});
  expect_error(ErrorKind::kBadInput, cut(9, {.seqlen = 4, .max_windows = 3}), {"my.txt", "3 windows of 4"});
  expect_error(ErrorKind::kBadInput, cut(1, {.convention = Convention::kStrided, .seqlen = 4}),
               {"my.txt", "1 tokens"});
  expect_error(ErrorKind::kUsage, cut(9, {.convention = Convention::kStrided, .seqlen = 4, .stride = 5}),
               {"--stride", "found 5", "at most 4"});
  expect_error(ErrorKind::kUsage, [] { convention_by_name("gptq"); }, {"--convention", "gptq", "llama.cpp"});
}

TEST(EvaluationTextTest, TokenIdsAreChecked) {
  test::TempDir folder;
  const auto file = folder.path() / "ids.u16";
  test::write_text(file, std::string("\x05\x00\x09\x00", 4));
  EXPECT_EQ(read_evaluation_text(file, "text", nullptr, 10).ids, (std::vector<std::int32_t>{5, 9}));
  expect_error(ErrorKind::kBadInput, [&] { read_evaluation_text(file, "text", nullptr, 9); },
               {"ids.u16", "found the id 9", "vocabulary of 9"});
  test::write_text(file, "");
  expect_error(ErrorKind::kBadInput, [&] { read_evaluation_text(file, "text", nullptr, 9); },
               {"ids.u16", "empty"});
}

TEST(ScoredWindows, WindowsThatStartWithBosGetNoSecondOne) {
  ConventionOptions options;
  options.seqlen = 4;
  options.bos = 9;
  const std::vector<std::int32_t> with = {9, 1, 2, 3, 9, 4, 5, 6};
  EXPECT_EQ(scored_windows(with, "ids", options)[0].windows.ids, with);
  const std::vector<std::int32_t> without = {9, 1, 2, 3, 4, 5, 6, 7};  // only the text's own beginning
  EXPECT_EQ(scored_windows(without, "ids", options)[0].windows.ids,
            (std::vector<std::int32_t>{9, 9, 1, 2, 9, 3, 4, 5}));
}

}  // namespace
}  // namespace swiftprune
