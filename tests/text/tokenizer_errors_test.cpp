// Damaged tokenizer files: each rule of the readers ends in one message with file, place, found and expected.
#include <gtest/gtest.h>

#include <functional>

#include "support/expect_error.h"
#include "swiftprune/text/tokenizer.h"
#include "text/fixtures.h"

namespace swiftprune {
namespace {

using nlohmann::json;
using test::expect_error;
using test::TempDir;
using test::write_text;

class DamagedJson : public testing::Test {
 protected:
  // Damages a fixture and expects the message.
  void expect_message(const std::string& fixture, const std::function<void(json&)>& damage,
                      const std::string& message) {
    json tokenizer = test::text_fixture("tokenizers/" + fixture + ".json");
    damage(tokenizer);
    expect_text(tokenizer.dump(-1, ' ', false, json::error_handler_t::replace), message);
  }
  void expect_text(const std::string& text, const std::string& message) {
    SCOPED_TRACE(message);
    write_text(folder_.path() / "tokenizer.json", text);
    expect_error(
        ErrorKind::kBadInput, [&] { Tokenizer::open(folder_.path()); }, "tokenizer.json", message);
  }
  TempDir folder_;
};

TEST_F(DamagedJson, Structure) {
  expect_text("", "not valid JSON");
  const std::string good = test::read_text(test::text_fixtures() / "tokenizers/digits_like.json");
  expect_text(good.substr(0, good.size() / 2), "not valid JSON");
  expect_text("[]", "expected an object");
  expect_text("{}", "field \"model\" is missing");
  expect_text(R"({"model": {}})", "model: field \"type\" is missing");
  expect_text(
      R"({"model": {"type": "Morfessor"}})",
      R"(model.type: found "Morfessor", expected one of the supported components: BPE, Unigram, WordLevel, WordPiece)");
  expect_message(
      "digits_like",
      [](json& t) {
        t["normalizer"] = {{"type", "Foo"}};
      },
      R"(normalizer.type: found "Foo")");
  expect_message(
      "digits_like", [](json& t) { t["pre_tokenizer"]["pretokenizers"][1]["type"] = "Foo"; },
      "pre_tokenizer.pretokenizers[1].type");
  expect_message(
      "digits_like", [](json& t) { t["post_processor"]["type"] = "Foo"; }, "post_processor.type");
  expect_message(
      "digits_like", [](json& t) { t["decoder"]["type"] = "Foo"; }, "decoder.type");
  expect_message(
      "digits_like", [](json& t) { t["added_tokens"] = 3; }, "added_tokens: found 3, expected a list");
  expect_message(
      "digits_like", [](json& t) { t["added_tokens"][0]["content"] = 3; }, "added_tokens[0].content");
  expect_message(
      "digits_like", [](json& t) { t["added_tokens"][0]["special"] = "x"; }, "added_tokens[0].special");
  expect_message(
      "llama2_like", [](json& t) { t["post_processor"]["special_tokens"]["<s>"]["ids"][0] = 999'999; },
      "post_processor: found the token id 999999");
}

TEST_F(DamagedJson, BpeVocabulary) {
  const auto vocab = [&](const json& value, const std::string& message) {
    expect_message(
        "digits_like", [&](json& t) { t["model"]["vocab"]["zz"] = value; }, message);
  };
  vocab(3, "an id of its own");
  vocab(-1, R"(model.vocab["zz"]: found -1, expected an id from 0)");
  vocab(1.5, R"(model.vocab["zz"]: found 1.5)");
  vocab("7", R"(model.vocab["zz"]: found "7")");
  vocab(4'000'000'000U, R"(model.vocab["zz"]: found 4000000000)");
  vocab(18'446'744'073'709'551'615U, R"(model.vocab["zz"])");
  expect_message(
      "digits_like", [](json& t) { t["model"]["vocab"] = json::array(); },
      "model.vocab: found [], expected an object");
  expect_message(
      "digits_like", [](json& t) { t["model"].erase("vocab"); }, "model: field \"vocab\" is missing");
}

TEST_F(DamagedJson, BpeMerges) {
  const auto merge = [&](const json& value, const std::string& message) {
    expect_message(
        "digits_like", [&](json& t) { t["model"]["merges"][2] = value; }, message);
  };
  merge({"a", "\xE2\x82\xAC"},
        "model.merges[2]: found the token \"\xE2\x82\xAC\", expected one that model.vocab holds");
  merge({"!", "\""}, "model.merges[2]: found the token \"!\"\"");  // both known, their union is not
  merge("a b c", "model.merges[2]: found \"a b c\", expected \"left right\"");
  merge("ab", "model.merges[2]");
  merge({"a"}, "model.merges[2]");
  merge({1, 2}, "model.merges[2]");
  expect_message(
      "digits_like", [](json& t) { t["model"]["merges"] = "x"; },
      "model.merges: found \"x\", expected a list");
  expect_message(
      "word_affixes",
      [](json& t) {
        t["model"]["merges"][0] = {"a", "#"};
      },
      "model.merges[0]");
}

TEST_F(DamagedJson, BpeOptions) {
  expect_message(
      "llama2_like", [](json& t) { t["model"]["unk_token"] = "<none>"; }, "unk_token: found \"<none>\"");
  expect_message(
      "llama2_like", [](json& t) { t["model"]["byte_fallback"] = 1; }, "model.byte_fallback");
  expect_message(
      "llama2_like", [](json& t) { t["model"]["dropout"] = 0.1; },
      "model.dropout: found 0.1, expected no dropout");
}

TEST_F(DamagedJson, OtherModels) {
  expect_message(
      "unigram", [](json& t) { t["model"]["vocab"] = json::array(); }, "model.vocab");
  expect_message(
      "unigram", [](json& t) { t["model"]["vocab"][4] = {"a"}; }, "model.vocab[4]");
  expect_message(
      "unigram",
      [](json& t) {
        t["model"]["vocab"][4] = {"a", "b"};
      },
      "model.vocab[4]");
  expect_message(
      "unigram", [](json& t) { t["model"]["unk_id"] = 100'000; },
      "model.unk_id: found 100000, expected an integer from 0");
  expect_message(
      "word_level", [](json& t) { t["model"]["unk_token"] = "none"; }, "model.unk_token");
  expect_message(
      "word_piece", [](json& t) { t["model"]["max_input_chars_per_word"] = -5; },
      "model.max_input_chars_per_word");
  expect_message(
      "word_piece", [](json& t) { t["model"].erase("continuing_subword_prefix"); },
      "\"continuing_subword_prefix\" is missing");
}

TEST_F(DamagedJson, UnknownCodePointWithoutUnknownToken) {
  json tokenizer = test::text_fixture("tokenizers/unigram.json");
  tokenizer["model"]["unk_id"] = nullptr;
  write_text(folder_.path() / "tokenizer.json", tokenizer.dump());
  const auto opened = Tokenizer::open(folder_.path());
  expect_error(
      ErrorKind::kBadInput, [&] { opened->encode("\xF0\x9F\xA6\x99"); }, "no unk_id");
}

// Any cut and any changed byte: an Error or a tokenizer that works, never a crash (run under the asan
// preset).
TEST_F(DamagedJson, CutAndChangedFilesNeverCrash) {
  const std::string good = test::read_text(test::text_fixtures() / "tokenizers/llama2_like.json");
  int failed = 0;
  int opened = 0;
  for (std::size_t i = 0; i < good.size(); i += 61) {
    for (const bool cut : {false, true}) {
      std::string bad = cut ? good.substr(0, i) : good;
      if (!cut) bad[i] = static_cast<char>(bad[i] ^ 0x15);
      write_text(folder_.path() / "tokenizer.json", bad);
      try {
        Tokenizer::open(folder_.path())->encode("Hello \xC3\xA9\xF0\x9F\xA6\x99 world");
        ++opened;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kBadInput) << error.what();
        ++failed;
      }
    }
  }
  EXPECT_GT(failed, 100);
  EXPECT_GT(opened, 10);
}

class DamagedModel : public testing::Test {
 protected:
  void expect_message(const std::string& bytes, const std::string& message) {
    SCOPED_TRACE(message);
    write_text(folder_.path() / "tokenizer.model", bytes);
    expect_error(
        ErrorKind::kBadInput, [&] { Tokenizer::open(folder_.path()); }, "tokenizer.model", message);
  }
  static std::string fixture(const std::string& name) {
    return test::read_text(test::text_fixtures() / "sentencepiece" / (name + ".model"));
  }
  TempDir folder_;
};

TEST_F(DamagedModel, WireFormat) {
  const std::string good = fixture("bpe_bytes");
  expect_message("", "no pieces");
  expect_message("not a model at all", "expected");
  expect_message(good.substr(0, good.size() - 3), "truncated");
  expect_message(good.substr(0, 17), "truncated");
  expect_message(good + "\x0A", "truncated");
  expect_message(good + std::string("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", 10), "found a field of");
  expect_message(good + std::string(11, '\xFF'), "over 64 bits");
  expect_message(good + "\x0B", "wire type 3");
  expect_message(std::string("\x1A\x02\x18\x00", 4), "no pieces");
}

TEST_F(DamagedModel, NormalisationRules) {
  std::string bad = fixture("unigram_rules");
  // The charsmap's length of its trie, the first number of the field, follows the field's header.
  const std::string spec_name = "user_defined";
  const std::size_t name = bad.find(spec_name);
  ASSERT_NE(name, std::string::npos);
  std::size_t at = name + spec_name.size();
  ASSERT_EQ(bad[at], '\x12');
  while ((static_cast<unsigned char>(bad[++at]) & 0x80) != 0) continue;
  std::string huge = bad;
  huge.replace(at + 1, 4, "\xF0\xFF\xFF\x7F");
  expect_message(huge, "precompiled_charsmap: found a trie of");
  std::string wild = bad;
  wild.replace(at + 5, 4, std::string("\x00\xFF\xFF\x7F", 4));  // the root's children far outside
  expect_message(wild, "points outside");
}

TEST_F(DamagedModel, CutAndChangedFilesNeverCrash) {
  for (const char* name : {"bpe_bytes", "unigram_rules"}) {
    const std::string good = fixture(name);
    int failed = 0;
    for (std::size_t i = 0; i < good.size(); i += 23) {
      for (const bool cut : {false, true}) {
        std::string bad = cut ? good.substr(0, i) : good;
        if (!cut) bad[i] = static_cast<char>(bad[i] ^ 0x15);
        write_text(folder_.path() / "tokenizer.model", bad);
        try {
          Tokenizer::open(folder_.path())->encode("Hello \xC3\xA9\xF0\x9F\xA6\x99 world");
        } catch (const Error&) {
          ++failed;
        }
      }
    }
    EXPECT_GT(failed, 50);
  }
}

}  // namespace
}  // namespace swiftprune
