// The one JSON reader: its limits, and what a field says when it is not as expected.
#include "swiftprune/core/json.h"

#include <cstdint>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/core/json_numbers.h"

namespace swiftprune {
namespace {

using nlohmann::json;
using test::expect_error;

void expect_bad(const std::string& text, const std::string& message, const JsonLimits& limits = {}) {
  expect_error(
      ErrorKind::kBadInput, [&] { parse_json(text, "here", limits); }, "here: ", message);
}

TEST(Json, ReadsEveryKindOfValue) {
  const std::string text =
      R"({"a": [1, -2, 3.5, true, null, "\u00e9", {}, []], "b": {"c": {"d": [[[]]]}}, "": 18446744073709551615})";
  EXPECT_EQ(parse_json(text, "here"), json::parse(text));
  EXPECT_EQ(parse_json(" 7 ", "here"), 7);
  EXPECT_EQ(parse_json("\xEF\xBB\xBF[1]", "here"), json::parse("[1]")) << "a byte order mark";
}

TEST(Json, Limits) {
  expect_bad(R"({"a": 1, "b": {"a": 1, "a": 2}})", "found the key \"a\" twice in one object");
  EXPECT_NO_THROW(parse_json(R"([{"a": 1}, {"a": 2}])", "here"));
  EXPECT_NO_THROW(parse_json(std::string(64, '[') + std::string(64, ']'), "here"));
  expect_bad(std::string(65, '[') + std::string(65, ']'), "nested deeper than 64 levels");
  std::string objects;
  for (int i = 0; i < 65; ++i) objects += R"({"a":)";
  expect_bad(objects, "nested deeper than 64 levels");
  expect_bad("[1, 2, 3]", "found 9 bytes, expected at most 8", {.max_bytes = 8});
  expect_bad("[1, 2, 3]", "more than 3 values", {.max_values = 3});
  EXPECT_NO_THROW(parse_json("[1, 2, 3]", "here", {.max_values = 4}));
}

TEST(Json, BrokenText) {
  for (const char* text :
       {"", "{", "[1,]", "{\"a\" 1}", "nul", "[1] 2", "\"\xFF\"", "\"\\ud800\"", "NaN", "1e999"})
    expect_bad(text, "not valid JSON: ");
}

TEST(Json, Files) {
  const test::TempDir dir;
  test::write_text(dir.path() / "a.json", "[1, 2]");
  EXPECT_EQ(read_json_file(dir.path() / "a.json"), json::parse("[1, 2]"));
  expect_error(
      ErrorKind::kBadInput, [&] { read_json_file(dir.path() / "a.json", {.max_bytes = 5}); },
      "a.json: found 6 bytes, expected at most 5");
  expect_error(
      ErrorKind::kBadInput, [&] { read_json_file(dir.path() / "b.json"); }, "b.json: cannot be read");
  expect_error(
      ErrorKind::kBadInput, [&] { read_json_file(dir.path()); }, "found a folder");
}

TEST(Json, FieldsNameFileAndPath) {
  const json value = parse_json(R"({"a": [{"n": 300, "t": "x", "b": true, "nothing": null}]})", "here");
  const JsonField item = JsonField(value, "file").at("a").items()[0];
  EXPECT_EQ(item.at("n").integer(0, 300), 300);
  EXPECT_EQ(item.string_if("t"), "x");
  EXPECT_TRUE(item.boolean_or("b", false));
  EXPECT_FALSE(item.find("nothing"));
  expect_error(
      ErrorKind::kBadInput, [&] { item.at("n").integer(0, 299); },
      "file: a[0].n: found 300, expected an integer from 0 to 299");
  expect_error(
      ErrorKind::kBadInput, [&] { item.at("nothing"); }, "file: a[0]: field \"nothing\" is missing");
}

TEST(Json, WholeNumbersAreWhatFitsAlone) {
  EXPECT_EQ(whole_number(json(-7)), -7);
  EXPECT_EQ(whole_number(json(INT64_MAX)), INT64_MAX);
  EXPECT_EQ(whole_numbers(json::parse("[1, 2]")), (std::vector<std::int64_t>{1, 2}));
  for (const char* text : {"1e60", "1.5", "2.0", "18446744073709551615", "true", "\"1\"", "null"}) {
    EXPECT_THROW(whole_number(json::parse(text)), json::exception) << text;
    EXPECT_THROW(whole_numbers(nlohmann::ordered_json::parse("[1, " + std::string(text) + "]")),
                 nlohmann::ordered_json::exception)
        << text;
  }
  EXPECT_THROW(whole_numbers(json(1)), json::exception);
}

TEST(Json, ExcerptsEndBetweenCharacters) {
  EXPECT_EQ(json_excerpt("abcdef", 80), "\"abcdef\"");
  EXPECT_EQ(json_excerpt("ab\u00e9\u00e9\u00e9\u00e9", 9), "\"ab\u00e9...");
}

}  // namespace
}  // namespace swiftprune
