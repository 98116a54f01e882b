#include "swiftprune/text/mixed_windows.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "text/byte_tokenizer.h"

namespace swiftprune {
namespace {

using test::ByteTokenizer;
using test::expect_error;
using Counts = std::vector<std::int64_t>;

TEST(MixedWindows, SharesAreDividedAsSeatsAre) {
  EXPECT_EQ(windows_by_weight(std::vector{0.5, 0.5}, 8), (Counts{4, 4}));
  EXPECT_EQ(windows_by_weight(std::vector{1.0, 1.0}, 7), (Counts{4, 3}));
  EXPECT_EQ(windows_by_weight(std::vector{3.0, 1.0}, 16), (Counts{12, 4}));
  EXPECT_EQ(windows_by_weight(std::vector{0.3, 0.7}, 10), (Counts{3, 7}));
  // By hand: the seven largest of 53, 53/3, 53/5, 53/7, 24, 24/3, 24/5, 23, 23/3, 23/5.
  EXPECT_EQ(windows_by_weight(std::vector{53.0, 24.0, 23.0}, 7), (Counts{3, 2, 2}));
  EXPECT_EQ(windows_by_weight(std::vector{0.99, 0.01}, 4), (Counts{4, 0}));
}

// Texts of one letter: each window tells where it is from.
WeightedText letters(char letter, std::size_t count, double weight) {
  return {{std::string(1, letter) + ".txt", {std::string(count, letter)}}, weight};
}

std::string origins(const TokenWindows& windows) {
  std::string result;
  for (std::int64_t i = 0; i < windows.num_windows(); ++i)
    result += static_cast<char>(windows.window(i).back());
  return result;
}

TEST(MixedWindows, ComeInTurn) {
  const ByteTokenizer tokenizer(false);
  const std::vector<WeightedText> even = {letters('a', 100, 1.0), letters('b', 100, 1.0)};
  EXPECT_EQ(origins(mixed_windows(tokenizer, even, 6, 4, 0)), "ababab");
  const std::vector<WeightedText> uneven = {letters('a', 100, 1.0), letters('b', 100, 3.0)};
  const TokenWindows all = mixed_windows(tokenizer, uneven, 8, 4, 0);
  EXPECT_EQ(std::count(all.ids.begin(), all.ids.end(), 'b'), 6 * 4);
  // Any first part has about the same shares, and is what a shorter run has.
  EXPECT_EQ(origins(mixed_windows(tokenizer, uneven, 4, 4, 0)), origins(all).substr(0, 4));
}

TEST(MixedWindows, EachTextIsDrawnAsByItself) {
  const ByteTokenizer tokenizer;
  Corpus a{"a", {"one", "two two", "three three three", "four"}}, b{"b", {"five", "six", "seven seven"}};
  const TokenWindows mixed = mixed_windows(tokenizer, std::vector<WeightedText>{{a, 0.5}, {b, 0.5}}, 4, 6, 7);
  const TokenWindows of_a = sample_windows(tokenizer, a, 2, 6, 7),
                     of_b = sample_windows(tokenizer, b, 2, 6, 7);
  for (std::int64_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(std::ranges::equal(mixed.window(2 * i), of_a.window(i)));
    EXPECT_TRUE(std::ranges::equal(mixed.window(2 * i + 1), of_b.window(i)));
  }
  EXPECT_EQ(mixed.hash(),
            mixed_windows(tokenizer, std::vector<WeightedText>{{a, 0.5}, {b, 0.5}}, 4, 6, 7).hash());
}

TEST(MixedWindows, AShortTextIsNamedOrMakesAllShorter) {
  const ByteTokenizer tokenizer(false);
  const std::vector<WeightedText> texts = {letters('a', 100, 1.0), letters('b', 10, 1.0)};
  expect_error(
      ErrorKind::kBadInput, [&] { mixed_windows(tokenizer, texts, 8, 4, 0); },
      "b.txt: found 10 tokens, expected at least 16 (4 windows of 4)");
  EXPECT_EQ(origins(mixed_windows(tokenizer, texts, 8, 4, 0, true)), "ababa");
}

TEST(MixedWindows, AWeightWithoutAWindowIsRefused) {
  const std::vector<WeightedText> texts = {letters('a', 100, 99.0), letters('b', 100, 1.0)};
  expect_error(
      ErrorKind::kUsage, [&] { mixed_windows(ByteTokenizer(false), texts, 4, 4, 0); },
      "b.txt: found the weight 1, whose share of 4 windows is none");
}

}  // namespace
}  // namespace swiftprune
