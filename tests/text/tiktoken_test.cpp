#include "swiftprune/text/tiktoken.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/text/precompiled_charsmap.h"

namespace swiftprune {
namespace {

using test::expect_error;
using test::TempDir;
using test::write_text;
using Ids = std::vector<std::int32_t>;

constexpr int kLlama3Ranks = 128'000;

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t bits = 0;
    const std::size_t have = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t b = 0; b < 3; ++b) {
      bits = bits << 8 | (b < have ? static_cast<unsigned char>(bytes[i + b]) : 0U);
    }
    for (std::size_t d = 0; d < 4; ++d) out += d <= have ? kDigits[bits >> (18 - 6 * d) & 63] : '=';
  }
  return out;
}

// As many ranks as Llama-3 has: the bytes, the words that are given, then fillers of bytes that no text has.
std::string rank_file(const std::vector<std::string>& words) {
  std::string file;
  int rank = 0;
  const auto add = [&](std::string_view token) { file += fmt::format("{} {}\n", base64(token), rank++); };
  for (int b = 0; b < 256; ++b) add(std::string(1, static_cast<char>(b)));
  for (const std::string& word : words) add(word);
  for (int i = 0; rank < kLlama3Ranks; ++i) {
    add(std::string{'\xFF', static_cast<char>(i >> 14 | 0x80), static_cast<char>((i >> 7 & 0x7F) | 0x80),
                    static_cast<char>((i & 0x7F) | 0x80)});
  }
  return file;
}

class Tiktoken : public testing::Test {
 protected:
  std::unique_ptr<Tokenizer> open(const std::string& file) {
    write_text(folder_.path() / "tokenizer.model", file);
    return Tokenizer::open(folder_.path());
  }
  TempDir folder_;
};

TEST(Base64, Rfc4648Vectors) {
  for (const char* text : {"", "f", "fo", "foo", "foob", "fooba", "foobar"}) {
    EXPECT_EQ(text::base64_decoded(base64(text)), text);
  }
  EXPECT_EQ(text::base64_decoded("Zm9vYg=="), "foob");
  EXPECT_EQ(text::base64_decoded("Zm9v*g=="), std::nullopt);
  EXPECT_EQ(text::base64_decoded("Z"), std::nullopt);
}

TEST_F(Tiktoken, MergesByRankOfTheJointBytes) {
  // Ranks 256: aa, 257: aaa, 258: ab. "aaa" can be made as a+aa and as aa+a.
  const auto tokenizer = open(rank_file({"aa", "aaa", "ab"}));
  EXPECT_EQ(tokenizer->encode("aaaa", false), (Ids{256, 256}));  // both pairs "aa" go before "aaa"
  EXPECT_EQ(tokenizer->encode("aaab", false), (Ids{257, 'b'}));  // aa|a|b: "aaa" (257) before "ab" (258)
  EXPECT_EQ(tokenizer->encode("aaaaab", false), (Ids{256, 257, 'b'}));  // aa|aa|a|b
  EXPECT_EQ(tokenizer->encode("ab", false), (Ids{258}));
}

TEST_F(Tiktoken, Llama3PatternAndSpecialTokens) {
  const auto tokenizer = open(rank_file({"12", "123", " H", " Hi"}));
  EXPECT_EQ(tokenizer->vocab_size(), kLlama3Ranks + 256);
  EXPECT_EQ(tokenizer->encode("1234", false), (Ids{257, '4'}));  // three digits at most
  EXPECT_EQ(tokenizer->encode("a Hi", false), (Ids{'a', 259}));
  EXPECT_EQ(tokenizer->encode("a"), (Ids{kLlama3Ranks, 'a'}));
  EXPECT_EQ(tokenizer->bos(), kLlama3Ranks);
  EXPECT_EQ(tokenizer->eos(), kLlama3Ranks + 1);
  EXPECT_EQ(tokenizer->id_of("<|eot_id|>"), kLlama3Ranks + 9);
  EXPECT_EQ(tokenizer->id_of("<|reserved_special_token_2|>"), kLlama3Ranks + 12);
  EXPECT_EQ(tokenizer->id_of("<|reserved_special_token_245|>"), kLlama3Ranks + 255);
  EXPECT_EQ(tokenizer->encode("a<|eot_id|>b", false), (Ids{'a', kLlama3Ranks + 9, 'b'}));
  EXPECT_EQ(tokenizer->decode(Ids{kLlama3Ranks, 259, 0xC3, 0xA9, kLlama3Ranks + 9}), " Hi\xC3\xA9");
  EXPECT_EQ(tokenizer->decode(Ids{'a', kLlama3Ranks + 9}, false), "a<|eot_id|>");
}

TEST_F(Tiktoken, ConfigSetsBosAndTokens) {
  write_text(
      folder_.path() / "tokenizer_config.json",
      R"({"add_bos_token": false, "add_eos_token": true, "eos_token": "<|im_end|>", "added_tokens_decoder": {
                 "128000": {"content": "<|im_start|>", "special": true}, "128001": {"content": "<|im_end|>", "special": true}}})");
  const auto tokenizer = open(rank_file({}));
  EXPECT_EQ(tokenizer->vocab_size(), kLlama3Ranks + 2);
  EXPECT_EQ(tokenizer->encode("a"), (Ids{'a', kLlama3Ranks + 1}));
}

TEST_F(Tiktoken, DamagedFiles) {
  const std::string good = rank_file({});
  const auto expect_message = [&](const std::string& file, const std::string& message) {
    SCOPED_TRACE(message);
    expect_error(
        ErrorKind::kBadInput, [&] { open(file); }, "tokenizer.model", message);
  };
  expect_message("IQ== 0\n", "found a rank file of 1 tokens, expected one of 128000 (Llama-3)");
  expect_message(good + "IQ== 128000\n", "a rank file of 128001 tokens");
  expect_message(good + "IQ== 5\n", "line 128001: found the rank 5 a second time");
  expect_message(good + "I* 128000\n", "line 128001: found \"I* 128000\"");
  expect_message(good + "IQ==\n", "line 128001");
  expect_message(good + "IQ== -1\n", "line 128001");
  expect_message(good + "IQ== 12x\n", "line 128001");
  expect_message(good + "IQ== 99999999999\n", "line 128001");
  expect_message(good.substr(0, good.find('\n', good.size() / 2)), "found a rank file of");
  expect_message(good.substr(good.find('\n') + 1), "the rank 0 is missing");
  std::string twice = good;
  twice.replace(0, twice.find(' '), base64("b"));  // rank 0 is now "b" too
  expect_message(twice, "a token has two ranks");
}

}  // namespace
}  // namespace swiftprune
