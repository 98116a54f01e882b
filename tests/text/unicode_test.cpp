#include "swiftprune/text/unicode.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "swiftprune/text/unicode_tables.h"

namespace swiftprune::text {
namespace {

TEST(Utf8, PositionOfTheFirstBadByte) {
  EXPECT_EQ(invalid_utf8_position(""), std::nullopt);
  EXPECT_EQ(invalid_utf8_position("plain ascii of more than eight bytes"), std::nullopt);
  EXPECT_EQ(invalid_utf8_position("\xC3\xA9\xE2\x82\xAC\xF0\x9F\xA6\x99\xF4\x8F\xBF\xBF"), std::nullopt);
  EXPECT_EQ(invalid_utf8_position("abcdefgh\x80"), 8U);  // lone continuation byte
  EXPECT_EQ(invalid_utf8_position("ab\xC3"), 2U);        // cut short
  EXPECT_EQ(invalid_utf8_position("ab\xE2\x82"), 2U);
  EXPECT_EQ(invalid_utf8_position("\xC0\xAF"), 0U);  // overlong
  EXPECT_EQ(invalid_utf8_position("\xE0\x80\xAF"), 0U);
  EXPECT_EQ(invalid_utf8_position("\xF0\x80\x80\xAF"), 0U);
  EXPECT_EQ(invalid_utf8_position("x\xED\xA0\x80"), 1U);     // surrogate
  EXPECT_EQ(invalid_utf8_position("\xF4\x90\x80\x80"), 0U);  // above U+10FFFF
  EXPECT_EQ(invalid_utf8_position("\xF5\x80\x80\x80"), 0U);
  EXPECT_EQ(invalid_utf8_position("\xC3\x28"), 0U);
}

// Unicode 15, table 3-8: U+FFFD for each maximal ill-formed part.
TEST(Utf8, ReplacesMaximalIllFormedParts) {
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(replace_invalid_utf8("a\xF1\x80\x80\xE1\x80\xC2"
                                 "b\x80"
                                 "c\x80\xBF"
                                 "d"),
            fmt::format("a{0}{0}{0}b{0}c{0}{0}d", bad));
  EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80"), bad + bad + bad);
  EXPECT_EQ(replace_invalid_utf8("caf\xC3\xA9"), "caf\xC3\xA9");
}

TEST(Utf8, CodePointsThereAndBack) {
  for (const char32_t c : {0x0U, 0x7FU, 0x80U, 0x7FFU, 0x800U, 0xFFFFU, 0x10000U, 0x10FFFFU}) {
    std::string text = "x";
    append_utf8(text, c);
    const CodePoint found = code_point_at(text, 1);
    EXPECT_EQ(found.value, c);
    EXPECT_EQ(found.bytes, text.size() - 1);
    EXPECT_EQ(utf8_length(text[1]), found.bytes);
    EXPECT_EQ(previous_boundary(text, text.size()), 1U);
  }
}

TEST(Unicode, NormalForms) {
  EXPECT_EQ(normalized("e\xCC\x81", NormalForm::kNfc), "\xC3\xA9");
  EXPECT_EQ(normalized("ae\xCC\x81 b", NormalForm::kNfc), "a\xC3\xA9 b");
  EXPECT_EQ(normalized("\xC3\xA9", NormalForm::kNfd), "e\xCC\x81");
  EXPECT_EQ(normalized("\xEF\xAC\x81", NormalForm::kNfc), "\xEF\xAC\x81");  // the ligature fi
  // U+11A8 is a final of Hangul, U+11A7 in front of it none.
  EXPECT_EQ(normalized("\xEB\x92\xA4\xE1\x86\xA8", NormalForm::kNfc), "\xEB\x92\xA5");
  EXPECT_EQ(normalized("\xEB\x92\xA4\xE1\x86\xA7", NormalForm::kNfc), "\xEB\x92\xA4\xE1\x86\xA7");
  EXPECT_EQ(normalized("\xEB\x92\xA4\xE1\x86\xA7", NormalForm::kNfkc), "\xEB\x92\xA4\xE1\x86\xA7");
  EXPECT_EQ(normalized("\xEF\xAC\x81", NormalForm::kNfkc), "fi");
  EXPECT_EQ(normalized("\xC2\xBD", NormalForm::kNfkd),
            "1\xE2\x81\x84"
            "2");
  EXPECT_EQ(normalized("\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", NormalForm::kNfc), "\xED\x95\x9C");  // Hangul
  EXPECT_EQ(normalized("a\xCC\x95\xCC\xA7", NormalForm::kNfd), "a\xCC\xA7\xCC\x95");  // classes 232, 202
  EXPECT_EQ(normalized("", NormalForm::kNfc), "");
}

// U+0898 has a combining class since Unicode 14, which the library's tables do not know.
TEST(Unicode, NormalFormsLeaveWhatTheLibraryDoesNotKnow) {
  const std::string text = "a\xCC\x95\xE0\xA2\x98\xCC\x95";
  EXPECT_EQ(normalized(text, NormalForm::kNfd), text);
}

TEST(Unicode, Classes) {
  for (const char32_t c : {0x20U, 0x85U, 0xA0U, 0x2003U, 0x3000U}) EXPECT_TRUE(is_whitespace(c));
  for (const char32_t c : {0x180EU, 0x200BU, 0xFEFFU, 0x61U}) EXPECT_FALSE(is_whitespace(c));
  for (const char32_t c : {0x30U, 0xBDU, 0x2167U, 0x663U, 0x10D40U}) EXPECT_TRUE(is_numeric(c));
  EXPECT_FALSE(is_numeric(0x4E00));
  for (const char32_t c : {0x24U, 0x5FU, 0x2014U, 0x3001U}) EXPECT_TRUE(is_punctuation(c));
  EXPECT_FALSE(is_punctuation(0x20AC));  // a currency sign is no punctuation, "$" of ASCII is
  EXPECT_TRUE(is_combining_mark(0x301));
  EXPECT_FALSE(is_combining_mark(0xE9));
}

TEST(Unicode, LowerCase) {
  std::string out;
  for (const char32_t c : {0x41U, 0x5AU, 0xC9U, 0x130U, 0x3A3U, 0x31U}) append_lowercase(out, c);
  EXPECT_EQ(out,
            "az\xC3\xA9i\xCC\x87\xCF\x83"
            "1");
}

TEST(Unicode, GraphemeClusters) {
  const std::string flag = "\xF0\x9F\x87\xA9\xF0\x9F\x87\xAA";  // two regional indicators
  EXPECT_EQ(grapheme_bytes("e\xCC\x81x", 0), 3U);
  EXPECT_EQ(grapheme_bytes("\r\nx", 0), 2U);
  EXPECT_EQ(grapheme_bytes(flag + flag, 0), 8U);
  EXPECT_EQ(grapheme_bytes("ab", 1), 1U);
}

TEST(UnicodeTables, RowsAreSortedAndApart) {
  for (const auto table :
       {kRegexStandInTable, kNumericTable, kPunctuationTable, kMarkTable, kLowercaseTable, kInertTable}) {
    ASSERT_FALSE(table.empty());
    for (std::size_t i = 0; i < table.size(); ++i) {
      EXPECT_LE(table[i].first, table[i].last);
      if (i > 0) {
        EXPECT_LT(table[i - 1].last, table[i].first);
      }
      EXPECT_EQ(find_range(table, table[i].first), &table[i]);
      EXPECT_EQ(find_range(table, table[i].last), &table[i]);
    }
    EXPECT_EQ(find_range(table, table.front().first - 1), nullptr);
    EXPECT_EQ(find_range(table, table.back().last + 1), nullptr);
  }
}

}  // namespace
}  // namespace swiftprune::text
