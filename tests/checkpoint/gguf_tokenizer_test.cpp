#include "swiftprune/checkpoint/gguf_tokenizer.h"

#include <functional>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "support/expect_error.h"
#include "support/gguf_builder.h"
#include "support/temp_dir.h"
#include "swiftprune/text/tokenizer.h"

namespace swiftprune {
namespace {

using nlohmann::json;
using test::expect_error;
using test::GgufBuilder;
using test::raw;
using test::TempDir;

const std::string kFolder = SWIFTPRUNE_TEST_DATA "/checkpoint/gguf/";

class GgufTokenizer : public testing::Test {
 protected:
  TokenizerFiles make(const GgufBuilder& builder, std::int64_t num_embeddings = 100) {
    test::write_text(dir_.path() / "m.gguf", builder.build());
    return make_tokenizer_files(GgufFile::open(dir_.path() / "m.gguf"), num_embeddings, "qwen2");
  }
  void expect_bad(const GgufBuilder& builder, const std::string& message) {
    expect_error(
        ErrorKind::kBadInput, [&] { make(builder, 4); }, "m.gguf: ", message);
  }
  std::unique_ptr<Tokenizer> open(const TokenizerFiles& files) {
    test::write_text(dir_.path() / "tokenizer.json", files.tokenizer);
    test::write_text(dir_.path() / "tokenizer_config.json", files.tokenizer_config);
    return Tokenizer::open(dir_.path());
  }

 private:
  TempDir dir_;
};

GgufBuilder byte_level(const char* pre) {
  GgufBuilder b;
  b.text("tokenizer.ggml.model", "gpt2");
  if (pre != nullptr) b.text("tokenizer.ggml.pre", pre);
  b.texts("tokenizer.ggml.tokens", {"a", "b", "ab", "<e>", "<u>", "[PAD5]"});
  b.array("tokenizer.ggml.token_type", test::kI32, 6, raw(1) + raw(1) + raw(1) + raw(3) + raw(4) + raw(5));
  b.texts("tokenizer.ggml.merges", {"a b"}).u32("tokenizer.ggml.eos_token_id", 3);
  return b;
}

TEST_F(GgufTokenizer, ByteLevelModel) {
  const TokenizerFiles files = make(byte_level("gpt-2").u32("tokenizer.ggml.bos_token_id", 0));
  const json tokenizer = json::parse(files.tokenizer);
  EXPECT_EQ(tokenizer.at("model").at("vocab"), json({{"a", 0}, {"b", 1}, {"ab", 2}, {"<e>", 3}, {"<u>", 4}}));
  EXPECT_EQ(tokenizer.at("model").at("merges"), json({"a b"}));
  EXPECT_EQ(tokenizer.at("model").at("byte_fallback"), false);
  const json& added = tokenizer.at("added_tokens");
  ASSERT_EQ(added.size(), 3u);  // the BOS token too, although the file calls it a normal one
  EXPECT_EQ(added[0].at("content"), "a");
  EXPECT_EQ(added[1].at("content"), "<e>");
  EXPECT_EQ(added[1].at("special"), true);
  EXPECT_EQ(added[2].at("id"), 4);
  EXPECT_EQ(added[2].at("special"), false);
  EXPECT_EQ(tokenizer.at("post_processor").at("type"), "ByteLevel");
  EXPECT_TRUE(files.notes.empty());
  const json map = json::parse(files.special_tokens_map);
  EXPECT_EQ(map, json({{"bos_token", "a"}, {"eos_token", "<e>"}}));
  EXPECT_EQ(json::parse(files.tokenizer_config).at("eos_token"), "<e>");
}

TEST_F(GgufTokenizer, PreTokenizers) {
  const auto tokenizer = [&](const char* pre) { return json::parse(make(byte_level(pre)).tokenizer); };
  EXPECT_EQ(tokenizer("gpt-2").at("pre_tokenizer").at("use_regex"), true);
  EXPECT_TRUE(tokenizer("gpt-2").at("normalizer").is_null());
  EXPECT_EQ(tokenizer("olmo").at("normalizer").at("type"), "NFC");
  EXPECT_EQ(tokenizer("smollm").at("pre_tokenizer").at("pretokenizers")[0].at("type"), "Digits");
  EXPECT_EQ(tokenizer("smollm").at("pre_tokenizer").at("pretokenizers")[1].at("use_regex"), true);
  const json llama = tokenizer("llama-bpe");
  EXPECT_EQ(llama.at("model").at("ignore_merges"), true);
  const json& split = llama.at("pre_tokenizer").at("pretokenizers")[0];
  EXPECT_EQ(split.at("behavior"), "Isolated");
  EXPECT_NE(split.at("pattern").at("Regex").get<std::string>().find(R"(\p{N}{1,3})"), std::string::npos);
  EXPECT_EQ(llama.at("pre_tokenizer").at("pretokenizers")[1].at("use_regex"), false);
  EXPECT_NE(tokenizer("qwen2").at("pre_tokenizer").dump().find(R"(|\\p{N}| ?)"), std::string::npos);
}

TEST_F(GgufTokenizer, FilesFromBeforeThePreKeyAreToldOf) {
  const TokenizerFiles files = make(byte_level(nullptr));
  ASSERT_EQ(files.notes.size(), 1u);
  EXPECT_NE(files.notes[0].find("qwen2 is assumed"), std::string::npos);
  EXPECT_EQ(json::parse(files.tokenizer).at("normalizer").at("type"), "NFC");
}

TEST_F(GgufTokenizer, BosAndEos) {
  const auto processor = [&](const std::function<void(GgufBuilder&)>& extra, const char* pre) {
    GgufBuilder b = byte_level(pre);
    b.u32("tokenizer.ggml.bos_token_id", 2);
    extra(b);
    return json::parse(make(b).tokenizer).at("post_processor");
  };
  // Llama 3 adds BOS unless the file says otherwise, the others do not.
  const json single = processor([](GgufBuilder&) {}, "llama-bpe").at("single");
  ASSERT_EQ(single.size(), 2u);
  EXPECT_EQ(single[0].at("SpecialToken").at("id"), "ab");
  EXPECT_EQ(processor([](GgufBuilder& b) { b.add("tokenizer.ggml.add_bos_token", test::kBool, raw('\0')); },
                      "llama-bpe")
                .at("type"),
            "ByteLevel");
  const json both = processor(
      [](GgufBuilder& b) {
        b.add("tokenizer.ggml.add_bos_token", test::kBool, raw('\1'));
        b.add("tokenizer.ggml.add_eos_token", test::kBool, raw('\1'));
      },
      "gpt-2");
  EXPECT_EQ(both.at("single").size(), 3u);
  EXPECT_EQ(both.at("pair").size(), 6u);
  EXPECT_EQ(both.at("special_tokens").at("<e>").at("ids"), json({3}));
}

// spm.json: the merges that transformers derives from SentencePiece's own model, and ids by SentencePiece.
TEST_F(GgufTokenizer, SentencePieceMergesAreThoseOfTransformers) {
  const GgufFile file = GgufFile::open(kFolder + "spm.gguf");
  const TokenizerFiles files = make_tokenizer_files(file, file.find("token_embd.weight")->shape[0], "");
  const json tokenizer = json::parse(files.tokenizer);
  const json expected = json::parse(test::read_text(kFolder + "spm.json"));
  EXPECT_EQ(tokenizer.at("model").at("vocab"), expected.at("vocab"));
  EXPECT_EQ(tokenizer.at("model").at("merges"), expected.at("merges"));
  EXPECT_EQ(tokenizer.at("model").at("byte_fallback"), true);
  EXPECT_EQ(tokenizer.at("post_processor").at("single").size(), 2u);
  EXPECT_EQ(tokenizer.at("normalizer").at("normalizers")[0].at("prepend"), "\xe2\x96\x81");
}

TEST_F(GgufTokenizer, WithoutSpacePrefix) {
  GgufBuilder b;
  b.text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", {"<unk>", "a", "b", "ab"});
  b.array("tokenizer.ggml.scores", test::kF32, 4, raw(0.0f) + raw(-2.0f) + raw(-3.0f) + raw(-1.0f));
  b.add("tokenizer.ggml.add_space_prefix", test::kBool, raw('\0'));
  const json tokenizer = json::parse(make(b).tokenizer);
  EXPECT_EQ(tokenizer.at("normalizer").at("type"), "Replace");
  EXPECT_EQ(tokenizer.at("decoder").at("decoders").size(), 3u);
  EXPECT_EQ(tokenizer.at("model").at("merges"), json({"a b"}));
  EXPECT_EQ(tokenizer.at("model").at("unk_token"), "<unk>");
  EXPECT_EQ(tokenizer.at("model").at("byte_fallback"), false);
}

// Spaces are SentencePiece's, merges the file's own; none stands in front of a text.
TEST_F(GgufTokenizer, Gemma4HasMergesOfItsOwn) {
  GgufBuilder b;
  b.text("tokenizer.ggml.model", "gemma4");
  b.texts("tokenizer.ggml.tokens", {"<pad>", "<eos>", "<bos>", "<unk>", "a", "\xe2\x96\x81",
                                    "\xe2\x96\x81"
                                    "a"});
  b.array("tokenizer.ggml.token_type", test::kI32, 7,
          raw(3) + raw(3) + raw(3) + raw(2) + raw(1) + raw(1) + raw(1));
  b.texts("tokenizer.ggml.merges", {"\xe2\x96\x81 a"});
  b.u32("tokenizer.ggml.bos_token_id", 2)
      .u32("tokenizer.ggml.eos_token_id", 1)
      .u32("tokenizer.ggml.unknown_token_id", 3);
  const auto tokenizer = open(make(b));
  EXPECT_EQ(tokenizer->encode("a a"), (std::vector<std::int32_t>{2, 4, 6}));
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{4, 6}), "a a");
}

TEST_F(GgufTokenizer, IdsAreThoseOfSentencePiece) {
  const GgufFile file = GgufFile::open(kFolder + "spm.gguf");
  const auto tokenizer = open(make_tokenizer_files(file, file.find("token_embd.weight")->shape[0], ""));
  const json expected = json::parse(test::read_text(kFolder + "spm.json"));
  for (const json& test_case : expected.at("cases")) {
    EXPECT_EQ(tokenizer->encode(test_case.at("text").get<std::string>()),
              test_case.at("ids").get<std::vector<std::int32_t>>())
        << test_case.at("text");
  }
}

TEST_F(GgufTokenizer, BadVocabularies) {
  const auto start = [](const char* model) {
    GgufBuilder b;
    b.text("tokenizer.ggml.model", model);
    return b;
  };
  expect_bad(GgufBuilder(), "tokenizer.ggml.model: found \"\", expected gpt2, llama or gemma4");
  expect_bad(start("t5"), "tokenizer.ggml.model: found \"t5\", expected gpt2, llama or gemma4; give");
  expect_bad(start("gpt2"), "tokenizer.ggml.tokens is missing");
  expect_bad(start("gpt2").u32("tokenizer.ggml.tokens", 1), "tokenizer.ggml.tokens: found uint32");
  expect_bad(start("gpt2").texts("tokenizer.ggml.tokens", {"a", "b", "c", "d", "e"}),
             "found 5 tokens, expected at most the 4 rows of token_embd.weight");
  expect_bad(start("gpt2").texts("tokenizer.ggml.tokens", {}), "found no tokens");
  const auto tokens = [&](const char* model) {
    return start(model).texts("tokenizer.ggml.tokens", {"a", "b"});
  };
  expect_bad(tokens("gpt2"), "tokenizer.ggml.merges is missing");
  expect_bad(tokens("gpt2").text("tokenizer.ggml.pre", "mystery"),
             "tokenizer.ggml.pre: found \"mystery\", expected one of");
  expect_bad(tokens("gpt2").text("tokenizer.ggml.pre", "bpe"), "found \"bpe\"");
  expect_bad(tokens("gpt2").array("tokenizer.ggml.token_type", test::kI32, 1, raw(1)),
             "token_type: found 1 values, expected 2");
  expect_bad(tokens("gpt2").array("tokenizer.ggml.token_type", test::kI32, 2, raw(1) + raw(7)),
             "found 7 for token 1");
  expect_bad(tokens("gpt2").u32("tokenizer.ggml.bos_token_id", 2),
             "tokenizer.ggml.bos_token_id: found 2, expected 0 to 1");
  expect_bad(tokens("gpt2").f32("tokenizer.ggml.bos_token_id", 0.0f), "found float32, expected an integer");
  expect_bad(tokens("llama"), "tokenizer.ggml.scores: found 0 values, expected 2");
  expect_bad(tokens("llama").array("tokenizer.ggml.scores", test::kF32, 2, raw(1.0f) + raw(NAN)),
             "found NaN");
  expect_bad(start("gpt2").texts("tokenizer.ggml.tokens", {"a", "\xff"}).texts("tokenizer.ggml.merges", {}),
             "token 1 is not valid UTF-8");
  // Found by fuzzing: of an added token, which stands in other files, too.
  expect_bad(start("gpt2")
                 .texts("tokenizer.ggml.tokens", {"a", "\xff"})
                 .texts("tokenizer.ggml.merges", {})
                 .array("tokenizer.ggml.token_type", test::kI32, 2, raw(1) + raw(3)),
             "token 1 is not valid UTF-8");
}

}  // namespace
}  // namespace swiftprune
