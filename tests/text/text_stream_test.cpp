// Tokens that come one by one read as the whole text does, and no character is ever cut: an answer's text is
// what decode(prompt + answer) has beyond decode(prompt), whatever the decoder does at the start of a text.
#include "swiftprune/text/text_stream.h"

#include <gtest/gtest.h>

#include "support/temp_dir.h"
#include "text/fixtures.h"

namespace swiftprune {
namespace {

// LLaMA's conventions: a space mark before each word, bytes as tokens, one space stripped when decoding.
std::unique_ptr<Tokenizer> llama_like() {
  const test::TempDir folder;
  test::write_text(folder.path() / "tokenizer.json", R"({"version": "1.0", "added_tokens": [
    {"id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
   "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
     {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
   "pre_tokenizer": null, "post_processor": null,
   "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
     {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
   "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
     "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
     "vocab": {"<unk>": 0, "<s>": 1, "▁": 2, "a": 3, "b": 4, "▁a": 5, "▁b": 6, "<0xC3>": 7, "<0xA9>": 8},
     "merges": ["▁ a", "▁ b"]}})");
  return Tokenizer::open(folder.path());
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<std::int32_t>& prompt,
                     const std::vector<std::int32_t>& answer) {
  TextStream stream(tokenizer, prompt);
  std::string text;
  for (const std::int32_t id : answer) {
    const std::string peeked = stream.peek(id);
    const std::string piece = stream.add(id);
    if (!piece.empty()) {
      EXPECT_EQ(piece, peeked);
    }
    text += piece;
  }
  return text + stream.rest();
}

TEST(TextStream, KeepsTheFirstSpaceOfAnAnswer) {
  const auto tokenizer = llama_like();
  EXPECT_EQ(streamed(*tokenizer, {5}, {6, 5}), " b a");
  EXPECT_EQ(streamed(*tokenizer, {1, 5}, {4, 5}), "b a");
  // Nothing visible before: the space at the start of a text is the decoder's to take away.
  EXPECT_EQ(streamed(*tokenizer, {}, {5, 6}), "a b");
  EXPECT_EQ(streamed(*tokenizer, {1}, {5, 6}), "a b");
}

TEST(TextStream, WaitsForWholeCharacters) {
  const auto tokenizer = llama_like();
  TextStream stream(*tokenizer, std::vector<std::int32_t>{5});
  EXPECT_EQ(stream.add(7), "");
  EXPECT_EQ(stream.add(8), "é");
  EXPECT_EQ(stream.add(6), " b");  // ends the run of bytes
  EXPECT_EQ(stream.add(7), "");
  EXPECT_EQ(stream.rest(), "\xEF\xBF\xBD");
  // A prompt that ends inside a character.
  EXPECT_EQ(streamed(*tokenizer, {5, 7}, {8, 6}), "é b");
}

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
