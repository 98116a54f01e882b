// Each normalizer, pre-tokenizer and decoder alone, against what the `tokenizers` library gave.
#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "swiftprune/text/decoders.h"
#include "swiftprune/text/normalizers.h"
#include "swiftprune/text/post_processors.h"
#include "swiftprune/text/pre_tokenizers.h"
#include "swiftprune/text/precompiled_charsmap.h"
#include "text/fixtures.h"

namespace swiftprune::text {
namespace {

using nlohmann::json;
using test::expect_error;

// Calls check(component, index of the input, expected output) for each output of a kind.
template <class Check>
void for_each_output(const std::string& kind, const Check& check) {
  const json all = test::text_fixture("components.json");
  const json& inputs = all.at(kind == "decoders" ? "token_lists" : "texts");
  ASSERT_GE(all.at(kind).size(), 10U);
  for (const json& entry : all.at(kind)) {
    SCOPED_TRACE(entry.at("component").dump());
    const JsonField component(entry.at("component"), "components.json", kind);
    ASSERT_EQ(entry.at("outputs").size(), inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) check(component, inputs[i], entry.at("outputs")[i]);
  }
}

TEST(Normalizers, AgreeWithTheLibrary) {
  for_each_output("normalizers", [](const JsonField& component, const json& input, const json& output) {
    MatchScratch scratch;
    std::string text = input;
    make_normalizer(component)->apply(text, scratch);
    EXPECT_EQ(text, output.is_null() ? input.get<std::string>() : output.get<std::string>()) << input;
  });
}

// As the library (0.23.3) puts Metaspace's mark in front of the text with prepend_scheme "first", or does not.
TEST(Normalizers, SayWhetherTheFirstLetterStays) {
  struct Case {
    const char *component, *text;
    bool stays;
  };
  for (
      const Case& one : {
          Case{R"({"type": "Strip", "strip_left": true, "strip_right": true})", " ab ", false},
          {R"({"type": "Strip", "strip_left": true, "strip_right": true})", "ab ", true},
          {R"({"type": "Nmt"})",
           "\x01"
           "ab",
           false},
          {R"({"type": "Nmt"})", "\tab", true},
          {R"({"type": "StripAccents"})", "\u0301ab", false},
          {R"({"type": "StripAccents"})", "a\u0301b", true},
          {R"({"type": "Replace", "pattern": {"String": "a"}, "content": ""})", "ab", false},
          {R"({"type": "Replace", "pattern": {"String": "a"}, "content": ""})", "ba", true},
          {R"({"type": "Replace", "pattern": {"String": "\u00e9"}, "content": "cd"})", "\u00e9b", true},
          {R"({"type": "Replace", "pattern": {"String": "ab"}, "content": "c"})", "abd", false},
          {R"({"type": "Replace", "pattern": {"String": "ab"}, "content": "c"})", "xab", true},
          {R"({"type": "Replace", "pattern": {"Regex": "^"}, "content": "x"})", "ab", true},
          {R"({"type": "Prepend", "prepend": "xy"})", "ab", true},
          {R"({"type": "NFKC"})", "\ufb01d", true},
          {R"({"type": "Lowercase"})", "ABd", true},
          {R"({"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": true, "strip_right": false},
                {"type": "Prepend", "prepend": "x"}]})",
           " ab", false},
      }) {
    const json component = json::parse(one.component);
    MatchScratch scratch;
    std::string text = one.text;
    EXPECT_EQ(make_normalizer(JsonField(component, "t"))->apply(text, scratch), one.stays)
        << one.component << ": " << one.text;
  }
}

// What follows a key where a unit says so is read as a place among the texts, whatever it is.
TEST(PrecompiledCharsmap, RefusesAKeyWithoutValue) {
  constexpr std::uint32_t kHasLeaf = 1 << 8, kOffset = 256;
  std::vector<std::uint32_t> units(2 * kOffset, 0);
  units['a'] = 'a' | kHasLeaf | kOffset << 10;
  const auto bytes = [&units] {
    const auto trie_bytes = static_cast<std::uint32_t>(units.size() * sizeof(std::uint32_t));
    std::string map(reinterpret_cast<const char*>(&trie_bytes), sizeof trie_bytes);
    map.append(reinterpret_cast<const char*>(units.data()), trie_bytes);
    return map + std::string("b\0", 2);
  };
  units['a' ^ kOffset] = 0x80000000U;
  EXPECT_EQ(PrecompiledCharsmap(bytes(), "map").normalized("a"), "b");
  units['a' ^ kOffset] = 0xFF;
  expect_error(
      ErrorKind::kBadInput, [&] { PrecompiledCharsmap(bytes(), "map"); },
      "map: unit 97 of the trie has no value");
}

TEST(PreTokenizers, AgreeWithTheLibrary) {
  for_each_output("pre_tokenizers", [](const JsonField& component, const json& input, const json& output) {
    MatchScratch scratch;
    SplitText split{input, {}};
    if (!split.text.empty()) split.pieces.push_back({0, split.text.size(), -1, true});
    make_pre_tokenizer(component)->apply(split, scratch);
    std::vector<std::string> pieces;
    for (const Piece& piece : split.pieces) pieces.emplace_back(split.view(piece));
    // The library says "" is one empty piece, which it drops later.
    auto expected = output.get<std::vector<std::string>>();
    std::erase(expected, "");
    EXPECT_EQ(pieces, expected) << input;
  });
}

TEST(PreTokenizers, LeaveAddedTokensAlone) {
  const json whitespace = {{"type", "WhitespaceSplit"}};
  MatchScratch scratch;
  SplitText split{"a b c d", {{0, 3, -1, true}, {3, 4, 7}, {4, 7, -1}}};
  make_pre_tokenizer(JsonField(whitespace, "t"))->apply(split, scratch);
  ASSERT_EQ(split.pieces.size(), 5U);
  EXPECT_EQ(split.pieces[2].token, 7);
  EXPECT_TRUE(split.pieces[0].at_text_start);
  EXPECT_FALSE(split.pieces[1].at_text_start);
}

TEST(Decoders, AgreeWithTheLibrary) {
  for_each_output("decoders", [](const JsonField& component, const json& input, const json& output) {
    MatchScratch scratch;
    auto tokens = input.get<std::vector<std::string>>();
    make_decoder(component)->apply(tokens, scratch);
    std::string text;
    for (const std::string& token : tokens) text += token;
    EXPECT_EQ(text, output.get<std::string>()) << input;
  });
}

TEST(PostProcessors, FrameOfASingleText) {
  const json processor = json::parse(R"({"type": "Sequence", "processors": [
      {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true},
      {"type": "TemplateProcessing",
       "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                  {"SpecialToken": {"id": "</s>", "type_id": 0}}],
       "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1, 5], "tokens": ["<s>", "x"]},
                                      "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
      {"type": "BertProcessing", "sep": ["[SEP]", 4], "cls": ["[CLS]", 3]}]})");
  const SpecialFrame frame = make_special_frame(JsonField(processor, "t"), 6);
  EXPECT_EQ(frame.before, (std::vector<std::int32_t>{3, 1, 5}));
  EXPECT_EQ(frame.after, (std::vector<std::int32_t>{2, 4}));
  expect_error(ErrorKind::kBadInput, [&] { make_special_frame(JsonField(processor, "t.json"), 5); },
               {"t.json", "the token id 5", "below 5"});
}

struct BadComponent {
  const char* component;
  const char* message;
};

template <class Make>
void expect_bad(const Make& make, std::initializer_list<BadComponent> cases) {
  for (const auto& [text, message] : cases) {
    SCOPED_TRACE(text);
    const json component = json::parse(text);
    expect_error(
        ErrorKind::kBadInput, [&] { make(JsonField(component, "t.json", "part")); }, "t.json: part", message);
  }
}

TEST(Components, BadFieldsNameFileAndPath) {
  expect_bad(make_normalizer,
             {{R"({"type": "Foo"})",
               R"(part.type: found "Foo", expected one of the supported components: NFC, NFD)"},
              {R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Bar"}]})",
               "part.normalizers[1].type"},
              {R"([])", "expected an object"},
              {R"({})", "\"type\" is missing"},
              {R"({"type": 3})", "expected a string"},
              {R"({"type": "Strip", "strip_left": 1, "strip_right": true})", "part.strip_left"},
              {R"({"type": "Prepend"})", "\"prepend\" is missing"},
              {R"({"type": "Replace", "pattern": {"Regex": "("}, "content": ""})", "part.pattern.Regex"},
              {R"({"type": "Replace", "pattern": {"String": ""}, "content": ""})", "part.pattern.String"},
              {R"({"type": "Replace", "pattern": {}, "content": ""})", "part.pattern"},
              {R"({"type": "Precompiled", "precompiled_charsmap": "*"})", "not base64"},
              {R"({"type": "Precompiled", "precompiled_charsmap": "AAA="})", "at least 4"},
              {R"({"type": "Precompiled", "precompiled_charsmap": "/////w=="})", "trie"},
              {R"({"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="})", "points outside"}});
  expect_bad(
      make_pre_tokenizer,
      {{R"({"type": "UnicodeScripts"})", "expected one of the supported components: ByteLevel, Split"},
       {R"({"type": "ByteLevel"})", "\"add_prefix_space\" is missing"},
       {R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Glue", "invert": false})",
        "part.behavior"},
       {R"({"type": "Metaspace", "replacement": "ab"})", "expected one character"},
       {R"({"type": "Metaspace", "replacement": ""})", "expected one character"},
       {R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"})", "part.prepend_scheme"},
       {R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "add_prefix_space": false})",
        "part.prepend_scheme"},
       {R"({"type": "FixedLength", "length": 0})", "part.length"},
       {R"({"type": "Sequence", "pretokenizers": {}})", "expected a list"}});
  expect_bad(make_decoder, {{R"({"type": "CTC"})", "expected one of the supported components: ByteLevel"},
                            {R"({"type": "Strip", "content": " ", "start": -1, "stop": 0})", "part.start"}});
  const auto frame = [](const JsonField& field) { make_special_frame(field, 10); };
  expect_bad(
      frame,
      {{R"({"type": "Foo"})", "TemplateProcessing"},
       {R"({"type": "TemplateProcessing", "single": [], "special_tokens": {}})", "part.single"},
       {R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}], "special_tokens": {}})",
        "\"x\" is missing"},
       {R"({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B"}}], "special_tokens": {}})",
        "part.single[0].Sequence"},
       {R"({"type": "BertProcessing", "cls": ["a"], "sep": ["b", 1]})", "part.cls"},
       {R"({"type": "BertProcessing", "cls": ["a", -1], "sep": ["b", 1]})", "part.cls[1]"}});
}

}  // namespace
}  // namespace swiftprune::text
