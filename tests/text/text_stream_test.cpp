// Tokens that come one by one read as the whole text does, and no character is ever cut.
#include "swiftprune/text/text_stream.h"

#include <gtest/gtest.h>

#include "text/fixtures.h"

namespace swiftprune {
namespace {

using nlohmann::json;

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

class TextStreamTest : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Tokenizer> tokenizer_ =
      Tokenizer::open(test::text_fixtures() / "tokenizers" / (GetParam() + ".json"));
};

// Whole UTF-8 characters only. What decode() itself cannot read is U+FFFD, which is one.
bool is_whole(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t length = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 0;
    if (length == 0 || i + length > text.size()) return false;
    for (std::size_t k = 1; k < length; ++k)
      if ((static_cast<unsigned char>(text[i + k]) & 0xC0) != 0x80) return false;
    i += length;
  }
  return true;
}

TEST_P(TextStreamTest, PiecesAreTheText) {
  int withheld = 0;
  for (const json& entry : test::text_fixture("tokenizers/" + GetParam() + ".cases.json")) {
    const auto ids = entry.at("plain").get<std::vector<std::int32_t>>();
    SCOPED_TRACE(entry.at("text").dump());
    TextStream stream(*tokenizer_);
    std::string text;
    for (const std::int32_t id : ids) {
      const std::string piece = stream.add(id);
      EXPECT_TRUE(is_whole(piece)) << piece;
      withheld += piece.empty();
      text += piece;
    }
    text += stream.rest();
    EXPECT_EQ(stream.rest(), "");
    EXPECT_EQ(text, tokenizer_->decode(ids));
  }
  EXPECT_GT(withheld, 0);  // the cases hold characters of several tokens
}

TEST_P(TextStreamTest, AStreamThatEndsInsideACharacterSaysSo) {
  const auto ids = tokenizer_->encode("\xF0\x9F\xA6\x9C", false);  // U+1F99C, in no vocabulary
  ASSERT_GE(ids.size(), 2u);
  TextStream stream(*tokenizer_);
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(stream.add(ids[i]), "");
  EXPECT_NE(stream.rest().find(kReplacement), std::string::npos);
}

// With bytes as tokens; the first of the two drops the space in front of a text.
INSTANTIATE_TEST_SUITE_P(Tokenizers, TextStreamTest,
                         ::testing::Values("llama2_like", "llama3_like", "neox_like"),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace swiftprune
