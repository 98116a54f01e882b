#include "swiftprune/text/token_windows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "support/expect_error.h"
#include "swiftprune/core/sha256.h"
#include "text/byte_tokenizer.h"

namespace swiftprune {
namespace {

using test::ByteTokenizer;
using test::expect_error;
using Ids = std::vector<std::int32_t>;

Ids ids_of(const TokenWindows& windows, std::int64_t i) {
  const auto window = windows.window(i);
  return {window.begin(), window.end()};
}

TEST(WindowsOfText, CutsTheJoinedTextWithoutSpecialTokens) {
  const TokenWindows windows = windows_of_text(ByteTokenizer(), {"t", {"abc", "defg"}}, {.seqlen = 4});
  EXPECT_EQ(windows.num_windows(), 2);  // "abc\n" "\ndef", and "g" is left over
  EXPECT_EQ(ids_of(windows, 0), (Ids{'a', 'b', 'c', '\n'}));
  EXPECT_EQ(ids_of(windows, 1), (Ids{'\n', 'd', 'e', 'f'}));
  EXPECT_EQ(windows_of_text(ByteTokenizer(), {"t", {"abcdefgh"}}, {.seqlen = 4}).num_windows(), 2);
  EXPECT_EQ(windows_of_text(ByteTokenizer(), {"t", {"abcdefgh"}}, {.seqlen = 4, .max_windows = 1}).ids,
            (Ids{'a', 'b', 'c', 'd'}));
}

TEST(WindowsOfText, BosTakesAPlaceOfEachWindow) {
  const TokenWindows windows =
      windows_of_text(ByteTokenizer(), {"t", {"abcdefg"}}, {.seqlen = 4, .bos_each_window = true});
  ASSERT_EQ(windows.num_windows(), 2);
  EXPECT_EQ(ids_of(windows, 0), (Ids{256, 'a', 'b', 'c'}));
  EXPECT_EQ(ids_of(windows, 1), (Ids{256, 'd', 'e', 'f'}));
  expect_error(
      ErrorKind::kBadInput,
      [] {
        windows_of_text(ByteTokenizer(false), {"t", {"abc"}}, {.seqlen = 2, .bos_each_window = true});
      },
      "has none");
}

TEST(WindowsOfText, TooShortSaysFoundAndExpected) {
  const Corpus corpus{"text.txt", {"abcdefg"}};
  expect_error(ErrorKind::kBadInput, [&] { windows_of_text(ByteTokenizer(), corpus, {.seqlen = 8}); },
               {"text.txt: found 7 tokens, expected at least 8 (1 windows of 8)", "shorter --seqlen"});
  expect_error(
      ErrorKind::kBadInput,
      [&] { windows_of_text(ByteTokenizer(), corpus, {.seqlen = 3, .max_windows = 3}); },
      "found 7 tokens, expected at least 9 (3 windows of 3)");
  expect_error(
      ErrorKind::kBadInput,
      [&] {
        windows_of_text(ByteTokenizer(), {"empty", {""}}, {.seqlen = 8});
      },
      "found 0 tokens");
  expect_error(
      ErrorKind::kUsage, [&] { windows_of_text(ByteTokenizer(), corpus, {.seqlen = 1}); }, "--seqlen");
  expect_error(
      ErrorKind::kUsage, [&] { windows_of_text(ByteTokenizer(), corpus, {.seqlen = 4, .max_windows = 0}); },
      "--windows");
}

TEST(WindowsOfIds, TakesWholeWindows) {
  EXPECT_EQ(windows_of_ids({1, 2, 3, 4, 5}, "f.u16", {.seqlen = 2}).ids, (Ids{1, 2, 3, 4}));
  expect_error(
      ErrorKind::kBadInput, [] { windows_of_ids({1}, "f.u16", {.seqlen = 2}); }, "f.u16: found 1 tokens");
}

Corpus ten_documents() {
  Corpus corpus{"docs.jsonl", {}};
  for (char c = 'a'; c < 'a' + 10; ++c) corpus.documents.emplace_back(3, c);
  return corpus;
}

TEST(SampleWindows, PacksDocumentsInASeededOrderEachAfterBos) {
  const TokenWindows windows = sample_windows(ByteTokenizer(), ten_documents(), 5, 8, 1);
  ASSERT_EQ(windows.num_windows(), 5);
  std::set<std::int32_t> seen;
  for (std::size_t i = 0; i < windows.ids.size(); i += 4) {  // all ten documents of 1 + 3 tokens
    EXPECT_EQ(windows.ids[i], 256);
    EXPECT_TRUE(seen.insert(windows.ids[i + 1]).second);
    EXPECT_EQ(windows.ids[i + 1], windows.ids[i + 3]);
  }
  EXPECT_EQ(seen.size(), 10U);
}

TEST(SampleWindows, TheSeedDecides) {
  const auto sample = [](std::uint64_t seed) {
    return sample_windows(ByteTokenizer(), ten_documents(), 2, 8, seed).ids;
  };
  EXPECT_EQ(sample(7), sample(7));
  std::set<Ids> different;
  for (std::uint64_t seed = 0; seed < 20; ++seed) different.insert(sample(seed));
  EXPECT_GT(different.size(), 15U);
  // MT19937-64 and Fisher-Yates, computed on their own. A change changes everybody's calibration data for a
  // seed.
  Ids firsts;
  for (std::size_t i = 1; i < 16; i += 4) firsts.push_back(sample(0)[i]);
  EXPECT_EQ(firsts, (Ids{'h', 'c', 'a', 'i'}));
}

TEST(SampleWindows, WithoutBosDocumentsFollowEachOther) {
  const TokenWindows windows = sample_windows(ByteTokenizer(false), ten_documents(), 3, 10, 3);
  EXPECT_EQ(std::count(windows.ids.begin(), windows.ids.end(), 256), 0);
}

TEST(SampleWindows, DrawsWindowsOfASingleDocument) {
  std::string text;
  for (int i = 0; i < 250; ++i) text += static_cast<char>(i);
  const Corpus corpus{"t", {text}};
  std::set<Ids> different;
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    const TokenWindows windows = sample_windows(ByteTokenizer(), corpus, 3, 10, seed);
    ASSERT_EQ(windows.num_windows(), 3);
    for (std::int64_t i = 0; i < 3; ++i) {
      const Ids window = ids_of(windows, i);
      const std::int32_t second = window[1];
      EXPECT_EQ(second % 10, 0) << "windows stand at multiples of the length";
      EXPECT_EQ(window[0], second == 0 ? 256 : second - 1);
      EXPECT_EQ(window[9], second + 8);
      if (i > 0) {
        EXPECT_GT(window[1], ids_of(windows, i - 1)[1]) << "in the order of the text, each once";
      }
    }
    different.insert(windows.ids);
  }
  EXPECT_GT(different.size(), 5U);
}

TEST(SampleWindows, TooShort) {
  expect_error(
      ErrorKind::kBadInput, [] { sample_windows(ByteTokenizer(), ten_documents(), 6, 8, 1); },
      "docs.jsonl: found 40 tokens, expected at least 48 (6 windows of 8)");
  expect_error(
      ErrorKind::kBadInput,
      [] {
        sample_windows(ByteTokenizer(), {"one", {"abc"}}, 1, 8, 1);
      },
      "one: found 4 tokens");
  expect_error(
      ErrorKind::kBadInput,
      [] {
        sample_windows(ByteTokenizer(), {"none", {}}, 1, 8, 1);
      },
      "none: found 0 tokens");
  expect_error(
      ErrorKind::kUsage, [] { sample_windows(ByteTokenizer(), ten_documents(), 0, 8, 1); }, "--windows");
}

TEST(TokenWindows, HashOfLittleEndianIds) {
  const TokenWindows windows{2, {1, 0x01020304}};
  EXPECT_EQ(windows.hash(), "sha256:" + sha256_hex(std::string_view("\x01\0\0\0\x04\x03\x02\x01", 8)));
  EXPECT_EQ(TokenWindows{}.num_windows(), 0);
}

}  // namespace
}  // namespace swiftprune
