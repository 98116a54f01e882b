// Tokenizers whose tokens and rules are spread over several files of a folder. The expected ids follow from
// the small vocabulary by hand and were compared with transformers 5.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/text/tokenizer.h"

namespace swiftprune {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

// Byte-level BPE of a few letters: a 0, b 1, c 2, the space 3, ab 4, abc 5, <s> 6, <e> 7.
const json kVocab = {{"a", 0},  {"b", 1},   {"c", 2},   {"\xC4\xA0", 3},
                     {"ab", 4}, {"abc", 5}, {"<s>", 6}, {"<e>", 7}};
const char* kMerges = "#version: 0.2\na b\nab c\n";

class TokenizerFiles : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) { test::write_text(dir_.path() / name, text); }
  void write_parts() {
    write("vocab.json", kVocab.dump());
    write("merges.txt", kMerges);
  }
  void write_json() {
    const json byte_level = {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
    write("tokenizer.json", json{{"added_tokens", json::array()},
                                 {"pre_tokenizer", byte_level},
                                 {"decoder", byte_level},
                                 {"model", {{"type", "BPE"}, {"vocab", kVocab}, {"merges", {"a b", "ab c"}}}}}
                                .dump());
  }
  Ids encode(const std::string& text) { return Tokenizer::open(dir_.path())->encode(text); }
  void expect_bad(const std::string& text, const std::string& text2 = "") {
    test::expect_error(
        ErrorKind::kBadInput, [&] { Tokenizer::open(dir_.path()); }, text, text2);
  }
  test::TempDir dir_;
};

TEST_F(TokenizerFiles, VocabularyAndMergesOfTheClassThatIsNamed) {
  write_parts();
  EXPECT_TRUE(Tokenizer::is_in(dir_.path()));
  expect_bad("found vocab.json and merges.txt for the tokenizer class of the model type \"\"");
  write("config.json", R"({"model_type": "opt"})");
  EXPECT_EQ(encode("abc ab"), (Ids{5, 3, 4})) << "OPT's class is GPT-2's";
  EXPECT_EQ(Tokenizer::open(dir_.path())->decode(Ids{5, 3, 4}), "abc ab");
  EXPECT_EQ(Tokenizer::open(dir_.path())->id_of("<|endoftext|>"), 8) << "the class's own token gets an id";
  write(
      "tokenizer_config.json",
      R"({"tokenizer_class": "GPT2TokenizerFast", "add_bos_token": true, "bos_token": "<s>", "eos_token": "<e>"})");
  EXPECT_EQ(encode("abc<e>"), (Ids{6, 5, 7}));
  write("tokenizer_config.json",
        R"({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": true, "add_eos_token": true,
    "bos_token": {"content": "<s>", "__type": "AddedToken"}, "eos_token": "<e>", "add_prefix_space": true})");
  EXPECT_EQ(encode("abc"), (Ids{6, 3, 5, 7}));
  for (const char* name : {"GPTNeoXTokenizer", "Qwen2Tokenizer"}) {
    write("tokenizer_config.json", json{{"tokenizer_class", name}}.dump());
    EXPECT_EQ(encode("abc ab"), (Ids{5, 3, 4})) << name;
  }
  write("tokenizer_config.json", R"({"tokenizer_class": "RobertaTokenizer"})");
  expect_bad("for the tokenizer class \"RobertaTokenizer\", expected one of GPT2Tokenizer");
}

TEST_F(TokenizerFiles, BrokenParts) {
  write_parts();
  write("config.json", R"({"model_type": "opt"})");
  write("merges.txt", "a b c\n");
  expect_bad("merges.txt: line 1: found \"a b c\", expected two pieces");
  write("merges.txt", "a b\n\nab c\n");
  expect_bad("merges.txt: line 2: found \"\"");
  write("merges.txt", "a z\n");
  expect_bad("vocab.json", "found the token \"z\"");
  write("merges.txt", kMerges);
  write("vocab.json", R"({"a": 0, "a": 1})");
  expect_bad("vocab.json: found the key \"a\" twice");
  write("vocab.json", "[1]");
  expect_bad("vocab.json");
}

TEST_F(TokenizerFiles, TokensThatOtherFilesAdd) {
  write_json();
  const Ids added = {0, 8, 1, 9};
  const std::string text = "a<x>b<y>";
  write("tokenizer_config.json", R"({"additional_special_tokens": ["<x>", "<y>"]})");
  EXPECT_EQ(encode(text), added);
  write("tokenizer_config.json", R"({"extra_special_tokens": ["<x>", {"content": "<y>"}]})");
  EXPECT_EQ(encode(text), added);
  write("tokenizer_config.json", R"({"extra_special_tokens": {"image_token": "<x>", "other_token": "<y>"}})");
  EXPECT_EQ(encode(text), added);
  write("tokenizer_config.json", R"({"image_token": "<x>", "pad_token": "<y>"})");
  EXPECT_EQ(encode("a<y>b<x>"), added) << "the usual names come first";
  write("tokenizer_config.json", "{}");
  write("added_tokens.json", R"({"<y>": 9, "<x>": 8})");
  EXPECT_EQ(encode(text), added);
  write("special_tokens_map.json", R"({"additional_special_tokens": ["<x>"], "eos_token": "<e>"})");
  EXPECT_EQ(encode(text), added);
  EXPECT_EQ(Tokenizer::open(dir_.path())->eos(), 7);
  EXPECT_EQ(Tokenizer::open(dir_.path())->decode(added), "ab<y>") << "what the map names is special";
}

TEST_F(TokenizerFiles, AddedTokensDecoderStandsForTheOtherFiles) {
  write_json();
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"8": {"content": "<x>", "special": true}}})");
  write("added_tokens.json", R"({"<y>": 9})");
  write("special_tokens_map.json", R"({"additional_special_tokens": ["<z>"]})");
  EXPECT_EQ(encode("<x>"), Ids{8});
  EXPECT_EQ(Tokenizer::open(dir_.path())->id_of("<y>"), std::nullopt);
  EXPECT_EQ(Tokenizer::open(dir_.path())->id_of("<z>"), std::nullopt);
}

TEST_F(TokenizerFiles, FlagsThatAreNotFollowedAreRefused) {
  write_json();
  write("tokenizer_config.json", R"({"split_special_tokens": true})");
  expect_bad("split_special_tokens: found true, expected false");
  write("tokenizer_config.json", R"({"split_special_tokens": false})");
  EXPECT_EQ(encode("a"), Ids{0});
  write("added_tokens.json", R"({"<y>": -1})");
  expect_bad("added_tokens.json: \"<y>\": found -1");
}

}  // namespace
}  // namespace swiftprune
