#include "swiftprune/text/regex.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "support/expect_error.h"

namespace swiftprune::text {
namespace {

using test::expect_error;

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  MatchScratch scratch;
  std::vector<Span> spans;
  Regex(pattern, "test").find_all(text, scratch, spans);
  std::vector<std::string> found;
  std::size_t done = 0;
  for (const Span& span : spans) {
    EXPECT_EQ(span.begin, done) << "spans cover the text in order";
    done = span.end;
    if (span.is_match) found.emplace_back(text.substr(span.begin, span.end - span.begin));
  }
  EXPECT_EQ(done, text.size());
  return found;
}

using Strings = std::vector<std::string>;

TEST(Regex, Gpt2Pattern) {
  const std::string_view pattern =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  EXPECT_EQ(matches(pattern, "Hello  world's 12 ½!!\n\n x"),
            (Strings{"Hello", " ", " world", "'s", " 12", " ½", "!!", "\n\n", " x"}));
}

// Each row: Oniguruma's reading, which PCRE2 without the translation does not have.
TEST(Regex, ReadsOnigurumaSyntax) {
  EXPECT_EQ(matches(R"(\w+)", "a\u0301b_1 c\u24D0"), (Strings{"a\u0301b_1", "c\u24D0"}));
  EXPECT_EQ(matches(R"(\W)", "a²b"), (Strings{}));  // Oniguruma's Latin-1 table
  EXPECT_EQ(matches(R"(\W)", "a\u2074b"), (Strings{"\u2074"}));
  EXPECT_EQ(matches(R"([\w-]+)", "a-b c"), (Strings{"a-b", "c"}));
  EXPECT_EQ(matches(R"(\h+)", "fFgx 09"), (Strings{"fF", "09"}));
  EXPECT_EQ(matches(R"(\H)", "a "), (Strings{" "}));
  EXPECT_EQ(matches(R"(a\b)", "a a\u0301 ab"), (Strings{"a"}));
  EXPECT_EQ(matches(R"(a\B)", "a ab"), (Strings{"a"}));
  EXPECT_EQ(matches(R"(^x)", "x\nx"), (Strings{"x", "x"}));
  EXPECT_EQ(matches(R"(x$)", "x\nx"), (Strings{"x", "x"}));
  EXPECT_EQ(matches(R"(a.)", "a\n"), (Strings{}));
  EXPECT_EQ(matches(R"((?m:a.))", "a\n"), (Strings{"a\n"}));
  EXPECT_EQ(matches(R"((?m)a.)", "a\n"), (Strings{"a\n"}));
  EXPECT_EQ(matches(R"((?i:'S|'LL))", "'s 'Ll"), (Strings{"'s", "'Ll"}));
  EXPECT_EQ(matches(R"(\d{1,2}+)", "12345"), (Strings{"12345"}));
  EXPECT_EQ(matches(R"((?:ab){1,2}+c)", "abababc"), (Strings{"abababc"}));
  EXPECT_EQ(matches(R"(xa{2}?)", "xaax"), (Strings{"xaa", "x"}));
  EXPECT_EQ(matches(R"(xa{,2})", "xaaa"), (Strings{"xaa"}));
  EXPECT_EQ(matches(R"(x{a})", "x{a}"), (Strings{"x{a}"}));
  EXPECT_EQ(matches(R"(\u00e9)", "é"), (Strings{"é"}));
  EXPECT_EQ(matches(R"(\p{Letter}+\p{^L})", "ab1"), (Strings{"ab1"}));
  EXPECT_EQ(matches(R"(\P{^L})", "a1"), (Strings{"a"}));
  EXPECT_EQ(matches(R"(\p{Han})", "\u4e00\u3001\u3013"), (Strings{"\u4e00"}));  // not those used with Han
  EXPECT_EQ(matches(R"(\P{han})", "\u4e00\u3001"), (Strings{"\u3001"}));
  EXPECT_EQ(matches(R"([^\w\s]+)", "-\u00bd-"), (Strings{"-\u00bd-"}));  // in a set there is no Latin-1 table
  EXPECT_EQ(matches(R"(\p{Decimal_Number}\P{Nd})", "1x"), (Strings{"1x"}));
  EXPECT_EQ(matches(R"([[:alpha:]]+)", "aé1"), (Strings{"aé"}));
  EXPECT_EQ(matches(R"([]a]+)", "]a"), (Strings{"]a"}));
  EXPECT_EQ(matches(R"(a++b|a?+)", "aab"), (Strings{"aab"}));
}

TEST(Regex, EmptyMatchesAreKeptButNotRightAfterAMatch) {
  MatchScratch scratch;
  std::vector<Span> spans;
  Regex("x*", "test").find_all("axb", scratch, spans);
  Strings found;
  for (const Span& span : spans)
    found.push_back(fmt::format("{}-{}{}", span.begin, span.end, span.is_match ? "m" : ""));
  EXPECT_EQ(found, (Strings{"0-0m", "0-1", "1-2m", "2-3", "3-3m"}));
  spans.clear();
  Regex("x", "test").find_all("", scratch, spans);
  EXPECT_TRUE(spans.empty());
}

// Code points newer than PCRE2's Unicode, and U+180E, which only PCRE2 calls a space.
TEST(Regex, NewerUnicodeThanPcre2) {
  EXPECT_EQ(matches(R"(\p{L}+)", "a\U00031350\U0002EBF0b"), (Strings{"a\U00031350\U0002EBF0b"}));
  EXPECT_EQ(matches(R"(\p{Han}+)", "\U00031350"), (Strings{"\U00031350"}));
  EXPECT_EQ(matches(R"(\p{N})", "\U00010D40"), (Strings{"\U00010D40"}));
  EXPECT_EQ(matches(R"(\s)", "\u180E\u2003"), (Strings{"\u2003"}));
}

TEST(Regex, LongRunsNeedNoStack) {
  const std::string spaces(1'000'000, ' ');
  EXPECT_EQ(matches(R"(\s+(?!\S)|\s+)", spaces + "x").size(), 2U);
  EXPECT_EQ(matches(R"((?:a|b)+)", std::string(200'000, 'a')).size(), 1U);
}

TEST(Regex, MatchesAtStart) {
  MatchScratch scratch;
  EXPECT_TRUE(Regex(R"(\w)", "test").matches_at_start("a-", scratch));
  EXPECT_FALSE(Regex(R"(\w)", "test").matches_at_start("-a", scratch));
}

TEST(Regex, InvalidPatternsNameThePlace) {
  for (const char* pattern : {"(", "a)", "[a", "*", "(?<x", "\\", "a{2,1}", "(?P<n"}) {
    expect_error(
        ErrorKind::kBadInput, [&] { Regex(pattern, "t.json: pre_tokenizer.pattern"); },
        "t.json: pre_tokenizer.pattern", "regular expression");
  }
  for (const char* pattern : {"[a-z&&[aeiou]]", "[a[b]]", R"([\W])", "[[:alpha"}) {
    EXPECT_THROW(pcre2_pattern(pattern), std::invalid_argument) << pattern;
    expect_error(
        ErrorKind::kBadInput, [&] { Regex(pattern, "t.json: here"); }, "t.json: here");
  }
}

// A pattern that backtracks without end stops with an error instead of hanging.
TEST(Regex, ExponentialPatternsStop) {
  std::string text(60, 'x');
  text.append("zy");
  expect_error(
      ErrorKind::kBadInput, [&] { matches("(x+x+)+y", text); }, "test", "limit");
}

}  // namespace
}  // namespace swiftprune::text
