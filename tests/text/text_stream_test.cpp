// An answer's text is what decode(prompt + answer) has beyond decode(prompt), whatever the decoder does at
// the start of a text and wherever characters are cut.
#include "swiftprune/text/text_stream.h"

#include <gtest/gtest.h>

#include "support/temp_dir.h"

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

}  // namespace
}  // namespace swiftprune
