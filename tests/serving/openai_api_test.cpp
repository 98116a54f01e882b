// Bodies that are taken, bodies that are refused with a reason, and the cutting at stop texts.
#include "swiftprune/serving/openai_api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/temp_dir.h"

namespace swiftprune {
namespace {

using ::testing::HasSubstr;

const Tokenizer& tokenizer() {
  static const auto loaded = Tokenizer::open(SWIFTPRUNE_TEST_DATA "/evaluation/model");
  return *loaded;
}

ApiLimits limits() {
  ApiLimits result;
  result.max_prompt_tokens = 100;
  result.max_tokens = 50;
  result.capacity = 120;
  return result;
}

TEST(ParseCompletion, ReadsWhatIsThere) {
  const ApiRequest request = parse_completion(
      R"({"prompt": "The sun", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["a", "bc"],
          "stream": true, "stream_options": {"include_usage": true}, "model": "x", "user": "y"})",
      tokenizer(), limits());
  EXPECT_EQ(request.generation.prompt, tokenizer().encode("The sun"));
  EXPECT_EQ(request.generation.max_tokens, 7);
  EXPECT_EQ(request.generation.sampler.temperature, 0.5);
  EXPECT_EQ(request.generation.sampler.top_p, 0.9);
  EXPECT_EQ(request.generation.sampler.seed, 3u);
  EXPECT_EQ(request.generation.end_token, tokenizer().eos());
  EXPECT_EQ(request.stop, (std::vector<std::string>{"a", "bc"}));
  EXPECT_TRUE(request.stream);
  EXPECT_TRUE(request.include_usage);
}

TEST(ParseCompletion, TakesIdsAndDefaults) {
  const ApiRequest request =
      parse_completion(R"({"prompt": [5, 6, 7], "stop": null, "temperature": null})", tokenizer(), limits());
  EXPECT_EQ(request.generation.prompt, (std::vector<std::int32_t>{5, 6, 7}));
  EXPECT_EQ(request.generation.max_tokens, 50);
  EXPECT_EQ(request.generation.sampler.temperature, 1.0);
  EXPECT_FALSE(request.stream);
}

TEST(ParseCompletion, RefusesWithAReason) {
  std::string long_prompt = "[1";
  for (int i = 0; i < 100; ++i) long_prompt += ",1";
  const std::pair<std::string, std::string> cases[] = {
      {"", "body"},
      {"{", "body"},
      {"[]", "object"},
      {"{}", "prompt"},
      {R"({"prompt": 5})", "prompt"},
      {R"({"prompt": []})", "prompt"},
      {R"({"prompt": [400]})", "400"},
      {R"({"prompt": [-1]})", "-1"},
      {R"({"prompt": ["a", "b"]})", "prompt"},
      {"{\"prompt\": " + long_prompt + "]}", "at most 100"},
      {R"({"prompt": "a", "max_tokens": 51})", "max_tokens"},
      {R"({"prompt": "a", "max_tokens": 0})", "max_tokens"},
      {R"({"prompt": "a", "max_tokens": 1.5})", "max_tokens"},
      {R"({"prompt": "a", "temperature": -1})", "temperature"},
      {R"({"prompt": "a", "temperature": "hot"})", "temperature"},
      {R"({"prompt": "a", "top_p": 0})", "top_p"},
      {R"({"prompt": "a", "n": 2})", "n:"},
      {R"({"prompt": "a", "stream": "yes"})", "stream"},
      {R"({"prompt": "a", "stop": [""]})", "stop"},
      {R"({"prompt": "a", "stop": ["1", "2", "3", "4", "5"]})", "stop"},
      {std::string(1000, '['), "body"},
  };
  for (const auto& [body, reason] : cases) {
    try {
      parse_completion(body, tokenizer(), limits());
      ADD_FAILURE() << body;
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status, 400);
      EXPECT_THAT(error.message, HasSubstr(reason)) << body;
      EXPECT_EQ(to_json(error)["error"]["message"], error.message);
    }
  }
}

TEST(ParseChat, WritesTheTemplateAndRefusesWithout) {
  const test::TempDir folder;
  test::write_text(
      folder.path() / "chat_template.jinja",
      "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
      "{{ '<|' + m.role + '|>' + m['content'] + '</s>' }}{% endfor %}<|assistant|>");
  const auto chat = templates::ChatTemplates::open(folder.path());
  const std::string body = R"({"messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 4})";
  const ApiRequest request = parse_chat(body, tokenizer(), &*chat, limits());
  EXPECT_TRUE(request.chat);
  EXPECT_EQ(request.generation.max_tokens, 4);
  EXPECT_EQ(request.generation.prompt, tokenizer().encode("<|user|>Hi</s><|assistant|>", false));
  for (const auto& [wrong, reason] : std::vector<std::pair<std::string, std::string>>{
           {R"({"messages": []})", "messages"},
           {R"({"messages": [{"role": "user"}]})", "line 1"},
           {R"({"messages": [{"role": "tool", "content": "x"}]})", "no tools"},
           {R"({"messages": [5]})", "messages"}}) {
    try {
      parse_chat(wrong, tokenizer(), &*chat, limits());
      ADD_FAILURE() << wrong;
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status, 400);
      EXPECT_THAT(error.message, HasSubstr(reason)) << wrong;
    }
  }
  EXPECT_THROW(parse_chat(body, tokenizer(), nullptr, limits()), ApiError);
}

TEST(StopFilter, CutsAtTheFirstStopHoweverThePiecesFall) {
  const std::string text = "one two STOP three";
  for (std::size_t size = 1; size <= text.size(); ++size) {
    StopFilter filter({"STOP", "three"});
    std::string shown;
    for (std::size_t i = 0; i < text.size(); i += size)
      shown += filter.add(std::string_view(text).substr(i, size));
    shown += filter.rest();
    EXPECT_EQ(shown, "one two ");
    EXPECT_TRUE(filter.found());
  }
  StopFilter filter({"STOP"});
  EXPECT_EQ(filter.add("a ST"), "a ");
  EXPECT_EQ(filter.add("x S"), "STx ");
  EXPECT_EQ(filter.rest(), "S");
  EXPECT_FALSE(filter.found());
}

}  // namespace
}  // namespace swiftprune
