// Texts that a schema takes and texts that it does not; texts made by following what is allowed are valid.
#include "swiftprune/serving/json_acceptor.h"

#include <random>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "swiftprune/serving/token_mask.h"

namespace swiftprune {
namespace {

using Json = nlohmann::json;

JsonSchema schema_of(const std::string& text) { return compile_json_schema(Json::parse(text), "schema"); }

bool accepts(const JsonSchema& schema, std::string_view text) {
  JsonAcceptor acceptor(schema);
  JsonAcceptor::States states = acceptor.start(), next;
  for (const char byte : text) {
    acceptor.step(states, static_cast<std::uint8_t>(byte), next);
    states.swap(next);
  }
  return acceptor.may_end(states);
}

// A model that likes spaces would spend its answer on them.
TEST(JsonAcceptor, BeginsAfterOneSpaceAtMost) {
  const JsonSchema any = schema_of("{}");
  EXPECT_TRUE(accepts(any, " {}"));
  EXPECT_FALSE(accepts(any, "  {}"));
  EXPECT_TRUE(accepts(any, "[" + std::string(64, ' ') + "]"));
  EXPECT_FALSE(accepts(any, "[" + std::string(65, ' ') + "]"));
}

TEST(JsonAcceptor, TakesJsonAndNothingElse) {
  const JsonSchema any = schema_of("{}");
  for (const char* text :
       {"{}", "[]", " {\"a\" : [1, -2.5e+3, 0, 0.5, true, false, null, \"x\"]}", "\"\"", "\"\\u00e9\\n\\\"\"",
        "\"é€😀\"", "[[[]], {}]", "{\"a\":{\"b\":{}}}", "12", "-0", "1E5", "[1 , 2 ]", "[\t\n\r 1]", "\n1"}) {
    EXPECT_TRUE(accepts(any, text)) << text;
    EXPECT_TRUE(Json::accept(text)) << text;
  }
  for (const char* text : {"",
                           "{",
                           "[",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{\"a\":1,}",
                           "[1,]",
                           "[,1]",
                           "01",
                           "1.",
                           ".5",
                           "+1",
                           "1e",
                           "- 1",
                           "\"",
                           "\"\\x\"",
                           "\"\\u00g0\"",
                           "\"\\ud800\"",
                           "\"\n\"",
                           "tru",
                           "truee",
                           "{}{}",
                           "[1 2]",
                           "nul",
                           "'a'",
                           "{1:2}",
                           "\"\xC0\x80\"",
                           "\"\xED\xA0\x80\"",
                           "\"\xF5\x80\x80\x80\"",
                           "\"\x80\"",
                           "\"\xC3\"",
                           "{} x"}) {
    EXPECT_FALSE(accepts(any, text)) << text;
  }
  EXPECT_FALSE(accepts(any, std::string(100, ' ') + "1"));  // not for ever
  EXPECT_FALSE(accepts(any, std::string(70, '[') + std::string(70, ']')));
  EXPECT_TRUE(accepts(any_json_object(), "{\"a\": [1]}"));
  EXPECT_FALSE(accepts(any_json_object(), "[1]"));
}

TEST(JsonAcceptor, KeepsASchema) {
  const JsonSchema person = schema_of(R"({"type": "object", "additionalProperties": false,
      "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "nam": {"type": "null"},
                     "kind": {"enum": ["a", "ab", 1, 12, null]}},
      "required": ["name", "age"]})");
  for (const char* text :
       {R"({"name": "x", "age": 3})", R"({"age": -3, "name": ""})",
        R"({"age":1,"nam":null,"name":"","kind":"ab"})", R"({"name":"x","age":3,"kind":1})",
        R"({"name":"x","kind":12 ,"age":3})", R"({"name":"x","age":3,"kind":null})"}) {
    EXPECT_TRUE(accepts(person, text)) << text;
  }
  for (const char* text : {"{}", R"({"name": "x"})", R"({"name": 1, "age": 3})",
                           R"({"name": "x", "age": 3.5})", R"({"name": "x", "age": 3, "more": 1})",
                           R"({"name": "x", "age": 3, "age": 4})", R"({"name": "x", "age": 3, "kind": "b"})",
                           R"({"name": "x", "age": 3, "kind": 2})", R"({"name": "x", "age": 3, "kind": 123})",
                           R"({"na": "x", "age": 3})", R"({"name": "x", "age": 3,)"}) {
    EXPECT_FALSE(accepts(person, text)) << text;
  }
}

TEST(JsonAcceptor, KnowsArraysAlternativesAndFurtherProperties) {
  const JsonSchema list =
      schema_of(R"({"type": "array", "items": {"type": ["boolean", "null"]}, "minItems": 1, "maxItems": 2})");
  EXPECT_TRUE(accepts(list, "[true]") && accepts(list, "[ null , false ]"));
  EXPECT_FALSE(accepts(list, "[]") || accepts(list, "[1]") || accepts(list, "[true,true,true]"));
  const JsonSchema none = schema_of(R"({"type": "array", "maxItems": 0})");
  EXPECT_TRUE(accepts(none, "[]"));
  EXPECT_FALSE(accepts(none, "[1]"));
  const JsonSchema either = schema_of(R"({"anyOf": [
      {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": false},
      {"type": "object", "properties": {"a": {"const": 2}, "b": {"type": "string"}}, "required": ["b"],
       "additionalProperties": false}]})");
  EXPECT_TRUE(accepts(either, R"({"a": 1})") && accepts(either, R"({"a": 2, "b": ""})"));
  EXPECT_FALSE(accepts(either, R"({"a": 2})") || accepts(either, R"({"a": 1, "b": ""})"));
  const JsonSchema open =
      schema_of(R"({"type": "object", "properties": {"a": {"type": "null"}, "a\"b": {"const": 1}},
                                       "additionalProperties": {"type": "number"}})");
  EXPECT_TRUE(accepts(open, R"({"a": null, "b": 1.5, "ab": 2, "é": 3, "a\"b": 1})"));
  EXPECT_FALSE(accepts(open, R"({"a": 1})") || accepts(open, R"({"b": null})") ||
               accepts(open, R"({"a\"b": 2})"));
  EXPECT_FALSE(accepts(open, R"({"\u0061": 1})"));  // "a" in another spelling
  EXPECT_FALSE(accepts(open, R"({"a": null, "a": null})"));
}

TEST(JsonSchema, RefusesByNameWhatItCannotKeep) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"type": "string", "minLength": 2})", "minLength"},
      {R"({"type": "string", "pattern": "a"})", "pattern"},
      {R"({"type": "string", "format": "date"})", "format"},
      {R"({"type": "number", "minimum": 2})", "minimum"},
      {R"({"$ref": "#/$defs/x"})", "$ref"},
      {R"({"allOf": []})", "allOf"},
      {R"({"oneOf": []})", "oneOf"},
      {R"({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}})",
       "schema.properties.a"},
      {R"({"type": "text"})", "text"},
      {R"({"type": "object", "required": ["x"]})", "required"},
      {R"({"type": "string", "properties": {}})", "properties"},
      {R"({"properties": {}})", "type"},
      {R"({"anyOf": []})", "anyOf"},
      {R"({"anyOf": [{}], "type": "string"})", "anyOf"},
      {R"({"enum": [1], "const": 1})", "enum"},
      {R"({"enum": ["a"], "type": "integer"})", "no value"},
      {R"({"type": "array", "minItems": 3, "maxItems": 2})", "minItems"},
      {R"(5)", "schema"},
  };
  for (const auto& [text, reason] : cases) {
    test::expect_error(
        ErrorKind::kUsage, [&] { schema_of(text); }, reason);
  }
}

// Random logits, the mask, the likeliest token: whatever comes out is JSON of the schema.
TEST(TokenMask, MakesRandomTextsValid) {
  const auto tokenizer = Tokenizer::open(SWIFTPRUNE_TEST_DATA "/evaluation/model");
  const auto table = std::make_shared<const TokenTable>(*tokenizer);
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const std::vector<std::int32_t> ends = {1};
  int finished = 0;
  for (int round = 0; round < 40; ++round) {
    const bool object = round % 2 == 0;
    const TokenGrammar grammar{
        object ? any_json_object()
               : schema_of(R"({"type": "object", "additionalProperties": false, "required": ["ok", "n"],
                  "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer"}, "s": {"enum": ["é", "x"]}}})"),
        table};
    TokenMask mask(grammar);
    std::vector<std::int32_t> ids;
    for (int t = 0; t < 300 && !mask.complete(); ++t) {
      std::vector<float> logits(static_cast<std::size_t>(tokenizer->vocab_size()));
      for (float& logit : logits) logit = normal(random);
      for (const char end : {'}', '"', ']'}) {
        if (const auto id = tokenizer->id_of(std::string(1, end)))
          logits[static_cast<std::size_t>(*id)] += 2.0f;
      }
      mask.exclude(logits, ends);
      ids.push_back(
          static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
      ASSERT_GT(logits[static_cast<std::size_t>(ids.back())], -1e30f);
      ASSERT_NE(ids.back(), 1);  // an object never may end before it is complete
      mask.add(ids.back());
    }
    std::string text;
    for (const std::int32_t id : ids) text += table->bytes(id);
    if (!mask.complete()) continue;
    ++finished;
    const Json json = Json::parse(text, nullptr, false);
    ASSERT_TRUE(json.is_object()) << text;
    if (object) continue;
    EXPECT_TRUE(json.at("ok").is_boolean() && json.at("n").is_number_integer()) << text;
    EXPECT_LE(json.size(), 3u);
  }
  EXPECT_GT(finished, 20);
}

TEST(TokenTable, HoldsTheBytesOfTheTokens) {
  const auto tokenizer = Tokenizer::open(SWIFTPRUNE_TEST_DATA "/evaluation/model");
  const TokenTable table(*tokenizer);
  const std::string text = "The sun, é€ and \"x\"";
  std::string bytes;
  for (const std::int32_t id : tokenizer->encode(text, false)) bytes += table.bytes(id);
  EXPECT_EQ(bytes, text);
  EXPECT_EQ(table.bytes(*tokenizer->eos()), "");
  EXPECT_EQ(table.bytes(1000000), "");
  for (std::size_t i = 0; i < table.nodes().size(); ++i) {
    EXPECT_GT(table.nodes()[i].end, static_cast<std::int32_t>(i));
  }
}

}  // namespace
}  // namespace swiftprune
