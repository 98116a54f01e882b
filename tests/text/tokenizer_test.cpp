// Whole tokenizers: ids and texts are those of the `tokenizers` and `sentencepiece` libraries.
#include "swiftprune/text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "support/expect_error.h"
#include "text/fixtures.h"

namespace swiftprune {
namespace {

using nlohmann::json;
using test::expect_error;
using test::TempDir;
using test::write_text;
using Ids = std::vector<std::int32_t>;

class TokenizerFixture : public testing::TestWithParam<std::string> {};

TEST_P(TokenizerFixture, AgreesWithTheLibrary) {
  const auto tokenizer = Tokenizer::open(test::text_fixtures() / "tokenizers" / (GetParam() + ".json"));
  const json cases = test::text_fixture("tokenizers/" + GetParam() + ".cases.json");
  ASSERT_GE(cases.size(), 30U);
  for (const json& entry : cases) {
    const std::string text = entry.at("text");
    SCOPED_TRACE(entry.at("text").dump());
    const auto ids = entry.at("ids").get<Ids>();
    EXPECT_EQ(tokenizer->encode(text), ids);
    EXPECT_EQ(tokenizer->encode(text, false), entry.at("plain").get<Ids>());
    EXPECT_EQ(tokenizer->decode(ids, false), entry.at("decoded").get<std::string>());
    EXPECT_EQ(tokenizer->decode(ids), entry.at("skipped").get<std::string>());
    for (const std::int32_t id : ids) {
      EXPECT_LT(id, tokenizer->vocab_size());
      EXPECT_EQ(tokenizer->id_of(tokenizer->token(id)), id);
    }
  }
}

// Pieces too long for the word cache go another way; a repeated text must still be what its parts say.
TEST_P(TokenizerFixture, LongTextsAgreeWithTheLibrary) {
  const auto tokenizer = Tokenizer::open(test::text_fixtures() / "tokenizers" / (GetParam() + ".json"));
  const json cases = test::text_fixture("tokenizers/" + GetParam() + ".cases.json");
  const json& longest = *std::max_element(cases.begin(), cases.end(), [](const json& a, const json& b) {
    return a.at("text").get_ref<const std::string&>().size() <
           b.at("text").get_ref<const std::string&>().size();
  });
  const Ids once = tokenizer->encode(longest.at("text").get<std::string>(), false);
  EXPECT_EQ(once, longest.at("plain").get<Ids>());
  EXPECT_EQ(tokenizer->encode(longest.at("text").get<std::string>(), false), once) << "with a warm cache";
}

INSTANTIATE_TEST_SUITE_P(Json, TokenizerFixture, testing::ValuesIn(test::fixture_names("tokenizers")),
                         [](const auto& test) { return test.param; });

class SentencePieceFixture : public testing::TestWithParam<std::string> {};

TEST_P(SentencePieceFixture, AgreesWithTheLibrary) {
  const auto tokenizer = Tokenizer::open(test::text_fixtures() / "sentencepiece" / (GetParam() + ".model"));
  for (const json& entry : test::text_fixture("sentencepiece/" + GetParam() + ".cases.json")) {
    const std::string text = entry.at("text");
    SCOPED_TRACE(entry.at("text").dump());
    const auto plain = entry.at("plain").get<Ids>();
    EXPECT_EQ(tokenizer->encode(text, false), plain);
    Ids with_bos = plain;
    with_bos.insert(with_bos.begin(), tokenizer->bos().value());
    EXPECT_EQ(tokenizer->encode(text), with_bos);
    EXPECT_EQ(tokenizer->decode(plain), entry.at("decoded").get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Model, SentencePieceFixture, testing::ValuesIn(test::fixture_names("sentencepiece")),
                         [](const auto& test) { return test.param; });

class TokenizerFolder : public testing::Test {
 protected:
  void take(const std::string& fixture, const std::string& name) {
    std::filesystem::copy_file(test::text_fixtures() / fixture, folder_.path() / name);
  }
  void write(const std::string& name, const std::string& text) { write_text(folder_.path() / name, text); }
  std::unique_ptr<Tokenizer> open() const { return Tokenizer::open(folder_.path()); }
  TempDir folder_;
};

TEST_F(TokenizerFolder, PrefersTokenizerJson) {
  take("sentencepiece/bpe_bytes.model", "tokenizer.model");
  const auto model = open();
  EXPECT_EQ(model->bos(), 1);
  take("tokenizers/digits_like.json", "tokenizer.json");
  const auto json_file = open();
  EXPECT_EQ(json_file->bos(), std::nullopt);
  EXPECT_NE(json_file->vocab_size(), model->vocab_size());
}

TEST_F(TokenizerFolder, NothingToOpen) {
  expect_error(
      ErrorKind::kBadInput, [&] { open(); }, folder_.path().string(),
      "neither tokenizer.json nor tokenizer.model");
  expect_error(
      ErrorKind::kBadInput, [&] { Tokenizer::open(folder_.path() / "gone"); }, "gone", "does not exist");
}

TEST_F(TokenizerFolder, BosAndEosComeFromTheFilesBeside) {
  take("tokenizers/llama3_like.json", "tokenizer.json");
  {
    const auto tokenizer = open();  // from the template around a text
    EXPECT_EQ(tokenizer->bos(), tokenizer->id_of("<s>"));
    EXPECT_EQ(tokenizer->eos(), tokenizer->id_of("</s>"));
  }
  write("generation_config.json", R"({"bos_token_id": 3, "eos_token_id": [4, 5]})");
  EXPECT_EQ(open()->bos(), 3);
  EXPECT_EQ(open()->eos(), 4);
  write("tokenizer_config.json", R"({"bos_token": null, "eos_token": {"content": "<s>", "special": true}})");
  EXPECT_EQ(open()->eos(), open()->id_of("<s>"));
  EXPECT_EQ(open()->bos(), 3);
  // Older folders: where no added_tokens_decoder is, transformers lets the map count.
  write("special_tokens_map.json", R"({"eos_token": "<|end|>"})");
  EXPECT_EQ(open()->eos(), open()->id_of("<|end|>"));
}

// transformers drops these two keys when there is a tokenizer.json, whose own post_processor counts.
TEST_F(TokenizerFolder, TokenizerJsonKeepsItsOwnFrame) {
  take("tokenizers/llama3_like.json", "tokenizer.json");
  const Ids before = open()->encode("x");
  write("tokenizer_config.json", R"({"add_bos_token": false, "add_eos_token": false})");
  EXPECT_EQ(open()->encode("x"), before);
}

// As GPT2Tokenizer, GPTNeoXTokenizer and Qwen2Tokenizer of transformers do; other classes keep the file's.
TEST_F(TokenizerFolder, SomeClassesSayWhetherASpaceComesFirst) {
  take("tokenizers/llama3_like.json", "tokenizer.json");
  const auto of = [&](const std::string& config, const char* text) {
    write("tokenizer_config.json", config);
    return open()->encode(text, false);
  };
  const Ids without = of("{}", "x"), with = of("{}", " x");
  ASSERT_NE(without, with);
  for (const char* name : {"GPT2TokenizerFast", "GPTNeoXTokenizer", "Qwen2Tokenizer"}) {
    const std::string begin = std::string(R"({"tokenizer_class": ")") + name + R"(", "add_prefix_space": )";
    EXPECT_EQ(of(begin + "true}", "x"), with) << name;
    EXPECT_EQ(of(begin + "false}", "x"), without) << name;
  }
  EXPECT_EQ(of(R"({"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": true})", "x"), without);
}

TEST_F(TokenizerFolder, ConfigAddsTokensThatTheFileLacks) {
  take("tokenizers/digits_like.json", "tokenizer.json");
  const std::int64_t size = open()->vocab_size();
  write("tokenizer_config.json", R"({"pad_token": "<pad>", "added_tokens_decoder": {
      "0": {"content": "<|end|>", "special": true}, "330": {"content": "<tool>", "special": false, "normalized": false}}})");
  const auto tokenizer = open();
  EXPECT_EQ(tokenizer->id_of("<tool>"), size);
  EXPECT_EQ(tokenizer->id_of("<pad>"), size + 1);
  EXPECT_EQ(tokenizer->vocab_size(), size + 2);
  EXPECT_EQ(tokenizer->encode("<tool><pad>", false),
            (Ids{static_cast<std::int32_t>(size), static_cast<std::int32_t>(size + 1)}));
}

TEST_F(TokenizerFolder, SentencePieceRules) {
  take("sentencepiece/bpe_bytes.model", "tokenizer.model");
  const Ids plain = open()->encode("Hello", false);
  EXPECT_EQ(open()->token(plain[0]).substr(0, 3), "▁");
  // Without files beside it, special spellings are text.
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 1), 0);
  const Ids text = open()->encode("</s>", false);
  EXPECT_EQ(std::count(text.begin(), text.end(), 2), 0);

  write("tokenizer_config.json",
        R"({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": true,
      "add_eos_token": true, "legacy": false, "added_tokens_decoder": {"420": {"content": "<new>", "special": true}}})");
  {
    const auto tokenizer = open();
    const std::int32_t added = tokenizer->id_of("<new>").value();
    EXPECT_EQ(tokenizer->vocab_size(), added + 1);
    Ids expected = {1};
    expected.insert(expected.end(), plain.begin(), plain.end());
    expected.push_back(2);
    EXPECT_EQ(tokenizer->encode("Hello"), expected);
    const Ids after = tokenizer->encode("<new>Hello", false);  // no dummy space after an added token
    EXPECT_EQ(after[0], added);
    EXPECT_NE(Ids(after.begin() + 1, after.end()), plain);
    EXPECT_EQ(tokenizer->decode(after, false), "<new>Hello");
    EXPECT_EQ(tokenizer->decode(after, true), "Hello");
    EXPECT_EQ(tokenizer->decode(tokenizer->encode("Hello<new> Hello"), false), "<s> Hello<new> Hello</s>");
  }
  write("tokenizer_config.json", R"({"bos_token": "<s>", "add_bos_token": false, "legacy": true,
      "added_tokens_decoder": {"420": {"content": "<new>"}}})");
  const auto legacy = open();
  EXPECT_EQ(legacy->encode("Hello"), plain);
  Ids expected = {legacy->id_of("<new>").value()};
  expected.insert(expected.end(), plain.begin(), plain.end());
  EXPECT_EQ(legacy->encode("<new>Hello"), expected);
}

TEST_F(TokenizerFolder, FingerprintCoversEveryFile) {
  take("tokenizers/digits_like.json", "tokenizer.json");
  const std::string alone = open()->fingerprint();
  EXPECT_EQ(alone.substr(0, 7), "sha256:");
  EXPECT_EQ(open()->fingerprint(), alone);
  write("special_tokens_map.json", "{}");
  EXPECT_NE(open()->fingerprint(), alone);
}

TEST_F(TokenizerFolder, BadConfigNamesFileAndField) {
  take("tokenizers/digits_like.json", "tokenizer.json");
  const std::initializer_list<std::pair<const char*, const char*>> cases = {
      {"{", "not valid JSON"},
      {"[]", "expected an object"},
      {R"({"bos_token": 3})", "bos_token"},
      {R"({"add_bos_token": "yes"})", "add_bos_token: found \"yes\", expected true or false"},
      {R"({"added_tokens_decoder": []})", "added_tokens_decoder"},
      {R"({"added_tokens_decoder": {"x": {"content": "a"}}})", "added_tokens_decoder[\"x\"]"},
      {R"({"added_tokens_decoder": {"99999999": {"content": "a"}}})", "a token id as its key"},
      {R"({"added_tokens_decoder": {"3": {}}})", "\"content\" is missing"},
  };
  for (const auto& [text, message] : cases) {
    write("tokenizer_config.json", text);
    expect_error(
        ErrorKind::kBadInput, [&] { open(); }, "tokenizer_config.json", message);
  }
  write("tokenizer_config.json", "{}");
  write("generation_config.json", R"({"eos_token_id": -1})");
  expect_error(
      ErrorKind::kBadInput, [&] { open(); }, "generation_config.json: eos_token_id");
}

TEST(Tokenizer, BadTextNamesThePosition) {
  for (const char* name : {"tokenizers/digits_like.json", "sentencepiece/bpe_bytes.model"}) {
    const auto tokenizer = Tokenizer::open(test::text_fixtures() / name);
    expect_error(
        ErrorKind::kBadInput, [&] { tokenizer->encode("caf\xE9!"); }, "0xe9 at position 3", "expected UTF-8");
  }
}

TEST(Tokenizer, UnknownIdsDecodeToNothing) {
  const auto tokenizer = Tokenizer::open(test::text_fixtures() / "tokenizers/digits_like.json");
  EXPECT_EQ(tokenizer->decode(Ids{-1, 1'000'000}), "");
  EXPECT_EQ(tokenizer->token(-1), "");
  EXPECT_EQ(tokenizer->token(1'000'000), "");
  EXPECT_EQ(tokenizer->id_of("no such token"), std::nullopt);
}

TEST(Tokenizer, ThreadsShareOne) {
  for (const char* name : {"tokenizers/llama2_like", "sentencepiece/bpe_bytes"}) {
    const std::string file = name;
    const auto tokenizer =
        Tokenizer::open(test::text_fixtures() / (file + (file.starts_with("sentence") ? ".model" : ".json")));
    const json cases = test::text_fixture(file + ".cases.json");
    std::atomic<int> wrong = 0;
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int round = 0; round < 10; ++round) {
          for (const json& entry : cases) {
            if (tokenizer->encode(entry.at("text").get<std::string>(), false) != entry.at("plain").get<Ids>())
              ++wrong;
          }
        }
      });
    }
    threads.clear();
    EXPECT_EQ(wrong, 0) << name;
  }
}

}  // namespace
}  // namespace swiftprune
