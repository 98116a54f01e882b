// Bodies that are taken, bodies that are refused with a reason; every field of the table does what the table
// says.
#include "swiftprune/serving/openai_api.h"

#include <algorithm>
#include <map>

#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/temp_dir.h"

namespace swiftprune {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
using Ids = std::vector<std::int32_t>;

const Tokenizer& api_tokenizer() {
  static const auto loaded = Tokenizer::open(SWIFTPRUNE_TEST_DATA "/evaluation/model");
  return *loaded;
}

const ApiModel& model() {
  static const ApiModel api{api_tokenizer(), 400, {1}, std::make_shared<LazyTokenTable>(api_tokenizer())};
  return api;
}

ApiLimits limits() {
  ApiLimits result;
  result.max_prompt_tokens = 100;
  result.max_tokens = 50;
  result.capacity = 120;
  result.max_answers = 12;
  return result;
}

ApiRequest completion(const std::string& body) { return parse_completion(body, model(), limits()); }

const templates::ChatTemplates& chat_templates() {
  static const templates::ChatTemplates loaded = [] {
    const test::TempDir folder;
    test::write_text(
        folder.path() / "chat_template.jinja",
        "{% if tools %}{{ tools[0].function.name }}{% endif %}"
        "{% if documents %}{{ documents[0].text }}{% endif %}{{ mood if mood is defined }}"
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        "{{ '<|' + m.role + '|>' + m['content'] + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}");
    return *templates::ChatTemplates::open(folder.path());
  }();
  return loaded;
}

ApiRequest chat(const std::string& body) { return parse_chat(body, model(), &chat_templates(), limits()); }

// What a body is refused with; empty when it is taken.
template <class Parse>
std::string refusal_of(Parse&& parse) {
  try {
    parse();
    return "";
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    EXPECT_EQ(to_json(error)["error"]["message"], error.message);
    return error.message;
  }
}

TEST(ParseCompletion, ReadsWhatIsThere) {
  const ApiRequest request = completion(
      R"({"prompt": "The sun", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["a", "bc"],
          "stream": true, "stream_options": {"include_usage": true}, "model": "x", "user": "y"})");
  ASSERT_EQ(request.generations.size(), 1u);
  EXPECT_EQ(request.first().prompt, api_tokenizer().encode("The sun"));
  EXPECT_EQ(request.prompt_texts, std::vector<std::string>{"The sun"});
  EXPECT_EQ(request.first().max_tokens, 7);
  EXPECT_EQ(request.first().sampler.temperature, 0.5);
  EXPECT_EQ(request.first().sampler.top_p, 0.9);
  EXPECT_EQ(request.first().sampler.seed, 3u);
  EXPECT_EQ(request.first().end_tokens, Ids{1});
  EXPECT_FALSE(request.first().logprobs);
  EXPECT_EQ(request.stop, (std::vector<std::string>{"a", "bc"}));
  EXPECT_TRUE(request.stream);
  EXPECT_TRUE(request.include_usage);
}

TEST(ParseCompletion, TakesIdsAndDefaults) {
  const ApiRequest request = completion(R"({"prompt": [5, 6, 7], "stop": null, "temperature": null})");
  EXPECT_EQ(request.first().prompt, (Ids{5, 6, 7}));
  EXPECT_EQ(request.first().max_tokens, 50);
  EXPECT_EQ(request.first().sampler.temperature, 1.0);
  EXPECT_FALSE(request.stream);
}

TEST(ParseCompletion, TakesSeveralPromptsAndAnswers) {
  const ApiRequest request =
      completion(R"({"prompt": [[5, 6], "The sun", [7]], "n": 2, "seed": -1, "best_of": 2})");
  ASSERT_EQ(request.generations.size(), 6u);
  EXPECT_EQ(request.generations[0].prompt, (Ids{5, 6}));
  EXPECT_EQ(request.generations[1].prompt, (Ids{5, 6}));
  EXPECT_EQ(request.generations[2].prompt, api_tokenizer().encode("The sun"));
  EXPECT_EQ(request.generations[5].prompt, Ids{7});
  EXPECT_EQ(request.answers_per_prompt, 2u);
  EXPECT_EQ(request.prompt_texts.size(), 3u);
  // Each prompt gets what it gets alone; its answers differ.
  EXPECT_EQ(request.generations[0].sampler.seed, ~std::uint64_t{0});
  EXPECT_EQ(request.generations[2].sampler.seed, ~std::uint64_t{0});
  EXPECT_NE(request.generations[1].sampler.seed, ~std::uint64_t{0});
}

TEST(ParseCompletion, DrawsASeedWhereNoneIsGiven) {
  const std::uint64_t first = completion(R"({"prompt": "a"})").seed;
  EXPECT_NE(first, completion(R"({"prompt": "a"})").seed);
  EXPECT_LT(first, std::uint64_t{1} << 53);
  EXPECT_EQ(completion(R"({"prompt": "a", "seed": 4611686018427387904})").seed, std::uint64_t{1} << 62);
  EXPECT_EQ(completion(R"({"prompt": "a", "seed": 18446744073709551615})").seed, ~std::uint64_t{0});
  EXPECT_EQ(completion(R"({"prompt": "a", "seed": -9223372036854775808})").seed, std::uint64_t{1} << 63);
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
      {R"({"prompt": ["a", 5]})", "prompt"},
      {R"({"prompt": [[]]})", "no tokens"},
      {R"({"prompt": ["1","2","3","4","5","6","7","8","9","10","11","12","13"]})", "13 prompts"},
      {R"({"prompt": ["1", "2", "3"], "n": 5})", "15 answers"},
      {"{\"prompt\": " + long_prompt + "]}", "at most 100"},
      {R"({"prompt": "a", "max_tokens": 51})", "max_tokens"},
      {R"({"prompt": "a", "max_tokens": 0})", "max_tokens"},
      {R"({"prompt": "a", "max_tokens": 1.5})", "max_tokens"},
      {R"({"prompt": "a", "max_tokens": 5.0})", "whole number"},
      {R"({"prompt": "a", "max_tokens": 18446744073709551615})", "max_tokens"},
      {R"({"prompt": "a", "max_tokens": "5"})", "max_tokens"},
      {R"({"prompt": "a", "max_tokens": true})", "max_tokens"},
      {R"({"prompt": "a", "temperature": -1})", "temperature"},
      {R"({"prompt": "a", "temperature": "hot"})", "temperature"},
      {R"({"prompt": "a", "top_p": 0})", "top_p"},
      {R"({"prompt": "a", "seed": 1.5})", "seed"},
      {R"({"prompt": "a", "seed": "1"})", "seed"},
      {R"({"prompt": "a", "seed": 36893488147419103232})", "seed"},
      {R"({"prompt": "a", "n": 0})", "n:"},
      {R"({"prompt": "a", "best_of": 2})", "best_of"},
      {R"({"prompt": "a", "stream": "yes"})", "stream"},
      {R"({"prompt": "a", "stream_options": {"continuous_usage_stats": true}})", "continuous_usage_stats"},
      {R"({"prompt": "a", "stop": [""]})", "stop"},
      {R"({"prompt": "a", "stop": ["1", "2", "3", "4", "5"]})", "stop"},
      {R"({"prompt": "a", "logit_bias": {"400": 1}})", "logit_bias"},
      {R"({"prompt": "a", "logit_bias": {"x": 1}})", "logit_bias"},
      {R"({"prompt": "a", "logit_bias": {"5": 101}})", "logit_bias"},
      {R"({"prompt": "a", "stop_token_ids": [400]})", "stop_token_ids"},
      {R"({"prompt": "a", "logprobs": true})", "logprobs"},
      {R"({"prompt": "a", "logprobs": 21})", "logprobs"},
      {R"({"prompt": "a", "top_k": 1.5})", "top_k"},
      {R"({"prompt": "a", "presence_penalty": 3})", "presence_penalty"},
      {R"({"prompt": "a", "repetition_penalty": 0})", "repetition_penalty"},
      {R"({"prompt": "a", "min_tokens": 9, "max_tokens": 8})", "min_tokens"},
      {R"({"prompt": "a", "response_format": "json"})", "response_format"},
      {R"({"prompt": "a", "response_format": {"type": "xml"}})", "xml"},
      {R"({"prompt": "a", "response_format": {"type": "json_schema"}})", "json_schema"},
      {R"({"prompt": "a", "response_format": {"type": "json_schema", "json_schema": {"schema":
          {"type": "string", "pattern": "a*"}}}})",
       "pattern"},
      {R"({"prompt": "a", "max_token": 5})", "did you mean \"max_tokens\""},
      {R"({"prompt": "a", "temprature": 5})", "did you mean \"temperature\""},
      {R"({"prompt": "a", "messages": []})", "messages"},
      {R"({"prompt": "a", "completely_new": 1})", "no such field"},
      {std::string(1000, '['), "body"},
  };
  for (const auto& [body, reason] : cases) {
    EXPECT_THAT(refusal_of([&] { completion(body); }), HasSubstr(reason)) << body;
  }
}

// A token that the tokenizer has and the embedding has not.
TEST(ParseCompletion, RefusesTokensWithoutAnEmbedding) {
  const ApiModel small{api_tokenizer(), 300, {1}, nullptr};
  EXPECT_THAT(refusal_of([&] { parse_completion(R"({"prompt": [300]})", small, limits()); }),
              HasSubstr("300"));
  const std::string text = api_tokenizer().decode(Ids{350});
  const Ids ids = api_tokenizer().encode(text);
  ASSERT_GE(*std::max_element(ids.begin(), ids.end()), 300);
  EXPECT_THAT(refusal_of([&] {
                parse_completion(Json{{"prompt", text}}.dump(), small, limits());
              }),
              HasSubstr("vocab_size 300"));
}

TEST(ParseChat, WritesTheTemplateAndRefusesWithout) {
  const std::string body = R"({"messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 4})";
  const ApiRequest request = chat(body);
  EXPECT_TRUE(request.chat);
  EXPECT_EQ(request.first().max_tokens, 4);
  EXPECT_EQ(request.first().prompt, api_tokenizer().encode("<|user|>Hi</s><|assistant|>", false));
  EXPECT_EQ(request.prompt_texts, std::vector<std::string>{"<|user|>Hi</s><|assistant|>"});
  const ApiRequest seeded =
      chat(R"({"seed": 18446744073709551615, "messages": [{"role": "user", "content": "Hi"}]})");
  EXPECT_EQ(seeded.seed, UINT64_MAX);
  EXPECT_EQ(seeded.prompt_texts, request.prompt_texts);
  for (
      const auto& [wrong, reason] : std::vector<std::pair<std::string, std::string>>{
          {R"({"messages": []})", "messages"},
          {R"({"messages": [{"role": "user"}]})", "line 1"},
          {R"({"messages": [{"role": "tool", "content": "x"}]})", "no tools"},
          {R"({"messages": [5]})", "messages"},
          {R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})", "type text"},
          {R"({"messages": [{"role": "user", "content": [{"type": 5, "text": "x"}]}]})", "type text"},
          {R"({"messages": [{"role": "user", "content": [{"type": null, "text": "x"}]}]})", "type text"},
          {R"({"messages": [{"role": "user", "content": 5}]})", "found 5, expected a text"},
          {R"({"messages": [{"role": "user", "content": {"text": "x"}}]})", "expected a text"},
          {R"({"messages": [{"content": "x"}]})", "messages: role"},
          {R"({"messages": [{"role": null, "content": "x"}]})", "messages: role"},
          {R"({"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "max_completion_tokens": 4})",
           "max_tokens: found 3"},
          {R"({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2})", "logprobs"}}) {
    EXPECT_THAT(refusal_of([&] { chat(wrong); }), HasSubstr(reason)) << wrong;
  }
  EXPECT_THAT(refusal_of([&] { parse_chat(body, model(), nullptr, limits()); }), HasSubstr("chat template"));
}

// A request as far as fields can change it.
std::string described(const ApiRequest& r) {
  std::string text = fmt::format("{} {} {} {} {} {} {}|", r.generations.size(), r.answers_per_prompt,
                                 r.stop.size(), r.min_tokens, r.echo, r.stream, r.include_usage);
  for (const GenerationRequest& g : r.generations) {
    text +=
        fmt::format("{} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {}|", fmt::join(g.prompt, ","),
                    g.max_tokens, fmt::join(g.end_tokens, ","), g.min_tokens, g.sampler.temperature,
                    g.sampler.top_p, g.sampler.top_k, g.sampler.min_p, g.sampler.seed, g.rules.bias.size(),
                    g.rules.presence_penalty, g.rules.frequency_penalty, g.rules.repetition_penalty,
                    g.grammar != nullptr, g.logprobs.value_or(-1), g.prompt_logprobs);
  }
  return text;
}

// For every field that is done: a value, and what must stand beside it.
const std::map<std::string, Json, std::less<>>& samples() {
  static const std::map<std::string, Json, std::less<>> values = {
      {"prompt", {{"prompt", "other"}}},
      {"messages", {{"messages", {{{"role", "user"}, {"content", "other"}}}}}},
      {"tools", {{"tools", {{{"type", "function"}, {"function", {{"name", "look"}}}}}}}},
      {"documents", {{"documents", {{{"text", "page"}}}}}},
      {"add_generation_prompt", {{"add_generation_prompt", false}}},
      {"continue_final_message", {{"add_generation_prompt", false}, {"continue_final_message", true}}},
      {"chat_template_kwargs", {{"chat_template_kwargs", {{"mood", "glad"}}}}},
      {"max_tokens", {{"max_tokens", 3}}},
      {"max_completion_tokens", {{"max_completion_tokens", 3}}},
      {"min_tokens", {{"min_tokens", 3}}},
      {"temperature", {{"temperature", 0.25}}},
      {"top_p", {{"top_p", 0.25}}},
      {"top_k", {{"top_k", 3}}},
      {"min_p", {{"min_p", 0.25}}},
      {"seed", {{"seed", 77}}},
      {"presence_penalty", {{"presence_penalty", 1}}},
      {"frequency_penalty", {{"frequency_penalty", 1}}},
      {"repetition_penalty", {{"repetition_penalty", 1.5}}},
      {"logit_bias", {{"logit_bias", {{"5", -100}}}}},
      {"logprobs", {{"logprobs", 2}}},
      {"top_logprobs", {{"logprobs", true}, {"top_logprobs", 2}}},
      {"echo", {{"echo", true}}},
      {"n", {{"n", 2}}},
      {"best_of", {{"n", 2}, {"best_of", 2}}},
      {"stop", {{"stop", "x"}}},
      {"stop_token_ids", {{"stop_token_ids", {9}}}},
      {"ignore_eos", {{"ignore_eos", true}}},
      {"response_format", {{"response_format", {{"type", "json_object"}}}}},
      {"stream", {{"stream", true}}},
      {"stream_options", {{"stream_options", {{"include_usage", true}}}}},
  };
  return values;
}

TEST(RequestFields, EachDoesWhatTheTableSays) {
  for (const RequestField& field : request_fields()) {
    for (const bool as_chat : {false, true}) {
      const auto endpoint = as_chat ? Endpoint::kChat : Endpoint::kCompletions;
      if ((static_cast<int>(field.endpoint) & static_cast<int>(endpoint)) == 0) continue;
      SCOPED_TRACE(fmt::format("{} {}", field.name, as_chat ? "chat" : "completions"));
      Json plain = {{"seed", 1}};
      if (as_chat)
        plain["messages"] = {{{"role", "user"}, {"content", "Hi"}}};
      else
        plain["prompt"] = "Hi";
      const auto parse = [&](const Json& body) {
        return as_chat ? chat(body.dump()) : completion(body.dump());
      };
      const std::string before = described(parse(plain));
      Json changed = plain;
      if (field.use == FieldUse::kDone) {
        const auto sample = samples().find(field.name);
        ASSERT_NE(sample, samples().end()) << "a field that is done needs a sample here";
        changed.update(sample->second);
        if (as_chat && field.name == "logprobs") changed["logprobs"] = true;
        EXPECT_NE(described(parse(changed)), before);
        continue;
      }
      changed[std::string(field.name)] = Json::object({{"some", "thing"}});
      if (field.use == FieldUse::kHarmless) {
        EXPECT_EQ(described(parse(changed)), before);
        continue;
      }
      EXPECT_THAT(refusal_of([&] { parse(changed); }),
                  HasSubstr(std::string(field.name) + ": not supported"));
      changed[std::string(field.name)] = nullptr;
      EXPECT_EQ(described(parse(changed)), before);
      if (field.neutral.empty()) continue;
      changed[std::string(field.name)] = Json::parse(field.neutral.substr(0, field.neutral.find(' ')));
      EXPECT_EQ(described(parse(changed)), before);
    }
  }
}

}  // namespace
}  // namespace swiftprune
