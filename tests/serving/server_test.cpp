// The server's answers: whole and streamed, refusals, what a request may ask for.
#include <algorithm>

#include <gmock/gmock.h>

#include "serving/server_fixture.h"
#include "support/expect_error.h"

namespace swiftprune {
namespace {

using test::ServerTest;
using ::testing::HasSubstr;
using Json = nlohmann::json;

TEST_F(ServerTest, AnswersWholeAndStreamedAlike) {
  start();
  Json body = {{"prompt", "The sun is"}, {"max_tokens", 12}, {"temperature", 0.8}, {"seed", 4}};
  const auto whole = complete(body);
  ASSERT_TRUE(whole);
  EXPECT_EQ(whole->status, 200);
  const Json answer = Json::parse(whole->body);
  const std::string text = answer["choices"][0]["text"];
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["model"], "tiny");
  EXPECT_EQ(answer["usage"]["prompt_tokens"], tokenizer_->encode("The sun is").size());
  EXPECT_LE(answer["usage"]["completion_tokens"], 12);

  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  const auto streamed = complete(body);
  ASSERT_TRUE(streamed);
  EXPECT_THAT(streamed->get_header_value("Content-Type"), HasSubstr("text/event-stream"));
  std::string joined;
  std::string finish;
  Json usage;
  std::istringstream lines(streamed->body);
  std::string line;
  std::string last;
  while (std::getline(lines, line)) {
    if (!line.starts_with("data: ")) continue;
    last = line.substr(6);
    if (last == "[DONE]") continue;
    const Json chunk = Json::parse(last);
    if (chunk["choices"].empty()) {
      usage = chunk["usage"];
      continue;
    }
    joined += chunk["choices"][0]["text"].get<std::string>();
    if (!chunk["choices"][0]["finish_reason"].is_null()) finish = chunk["choices"][0]["finish_reason"];
  }
  EXPECT_EQ(last, "[DONE]");
  EXPECT_EQ(joined, text);
  EXPECT_EQ(finish, answer["choices"][0]["finish_reason"]);
  for (const char* count : {"prompt_tokens", "completion_tokens", "total_tokens"})
    EXPECT_EQ(usage[count], answer["usage"][count]) << count;
  // The same prompt again: all but its last token was read already.
  EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"].get<int>() - 1);
}

TEST_F(ServerTest, StopTextsEndAnAnswer) {
  start();
  const Json body = {{"prompt", "The sun is"}, {"max_tokens", 40}, {"temperature", 0}};
  const std::string text = Json::parse(complete(body)->body)["choices"][0]["text"];
  ASSERT_GT(text.size(), 4u);
  Json stopped = body;
  stopped["stop"] = text.substr(text.size() / 2, 2);
  const Json answer = Json::parse(complete(stopped)->body);
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(answer["choices"][0]["text"], text.substr(0, text.find(text.substr(text.size() / 2, 2))));
}

TEST_F(ServerTest, RefusesWithAReason) {
  ServerOptions options;
  options.max_body_bytes = 10000;
  start(options);
  EXPECT_EQ(complete({{"prompt", 5}})->status, 400);
  const auto broken = client().Post("/v1/completions", "{\"prompt\": ", "application/json");
  EXPECT_EQ(broken->status, 400);
  EXPECT_THAT(Json::parse(broken->body)["error"]["message"].get<std::string>(), HasSubstr("body"));
  const auto huge = client().Post("/v1/completions", std::string(20000, 'x'), "application/json");
  ASSERT_TRUE(huge);
  EXPECT_EQ(huge->status, 413);
  EXPECT_THAT(huge->body, HasSubstr("10000 bytes"));
  const auto nowhere = client().Get("/v2/nothing");
  EXPECT_EQ(nowhere->status, 404);
  EXPECT_THAT(Json::parse(nowhere->body)["error"]["message"].get<std::string>(), HasSubstr("/v2/nothing"));
  const auto chat = client().Post("/v1/chat/completions",
                                  R"({"messages": [{"role": "user", "content": "Hi"}]})", "application/json");
  EXPECT_EQ(chat->status, 400);  // the tiny tokenizer has no marks of a template
  EXPECT_THAT(chat->body, HasSubstr("chat template"));
  const Json model = Json::parse(client().Get("/v1/models")->body)["data"][0];
  EXPECT_EQ(model["id"], "tiny");
  EXPECT_GT(model["created"], 1600000000);
  EXPECT_EQ(Json::parse(client().Get("/v1/models/tiny")->body), model);
  EXPECT_EQ(client().Get("/v1/models/other")->status, 404);
}

TEST_F(ServerTest, HasTheStatusOfWhatIsWrong) {
  ServerOptions options;
  options.max_body_bytes = 20000;
  start(options);
  const auto wrong = client().Get("/v1/completions");
  EXPECT_EQ(wrong->status, 405);
  EXPECT_THAT(wrong->get_header_value("Allow"), HasSubstr("POST"));
  EXPECT_EQ(client().Put("/v1/models", "{}", "application/json")->status, 405);
  EXPECT_EQ(client().Delete("/nothing")->status, 404);
  EXPECT_EQ(client().Post("/v1/completions", "{}", "text/html")->status, 415);
  const std::string body =
      Json{{"prompt", "The"}, {"max_tokens", 1}, {"user", std::string(9000, 'x')}}.dump();
  // As `curl -d` sends it; a browser's page may send that to anybody unasked.
  EXPECT_EQ(client().Post("/v1/completions", body, "application/x-www-form-urlencoded")->status, 200);
  EXPECT_EQ(
      client()
          .Post("/v1/completions", {{"Origin", "http://evil"}}, body, "application/x-www-form-urlencoded")
          ->status,
      415);
  EXPECT_EQ(
      client().Post("/v1/completions", {{"Content-Encoding", "zstd"}}, body, "application/json")->status,
      415);
  // A small body that grows.
  auto packer = client();
  packer.set_compress(true);
  EXPECT_EQ(packer.Post("/v1/completions", body, "application/json")->status, 200);
  const std::string bomb = Json{{"prompt", std::string(3000000, 'x')}}.dump();
  const auto exploded = packer.Post("/v1/completions", bomb, "application/json");
  ASSERT_TRUE(exploded);
  EXPECT_EQ(exploded->status, 413);
  // In pieces, without a length.
  auto chunks = client();
  const auto piecewise = chunks.Post(
      "/v1/completions",
      [&, sent = std::size_t{0}](std::size_t, httplib::DataSink& sink) mutable {
        if (sent == 30)
          sink.done();
        else
          sink.write(std::string(1000, 'x').data(), 1000);
        ++sent;
        return true;
      },
      "application/json");
  ASSERT_TRUE(piecewise);
  EXPECT_EQ(piecewise->status, 413);
  EXPECT_EQ(complete({{"prompt", "The"}, {"max_tokens", 1}})->status, 200);
}

// Memory for one page of positions: answers take turns, and one that needs two is refused.
TEST_F(ServerTest, TellsOfTheMemoryOfItsCache) {
  const auto page = static_cast<std::uint64_t>(model_->config().cache_size() * LanePages::kPositions * 4);
  start({}, 8, page);
  EXPECT_EQ(metric("cache_limit_bytes"), static_cast<double>(page));
  const Json fits = {{"prompt", "The sun is"}, {"max_tokens", 40}, {"n", 3}, {"temperature", 0}};
  const Json answer = Json::parse(complete(fits)->body);
  ASSERT_EQ(answer["choices"].size(), 3u);
  EXPECT_EQ(answer["choices"][2]["text"], answer["choices"][0]["text"]);
  EXPECT_EQ(metric("cache_bytes"), static_cast<double>(page));  // what the last one has read
  const auto refused = complete({{"prompt", "The sun is"}, {"max_tokens", 64}});
  EXPECT_EQ(refused->status, 400);
  EXPECT_THAT(refused->body, ::testing::HasSubstr("expected at most 64 together"));
  EXPECT_THAT(refused->body, ::testing::HasSubstr("--cache-memory"));
}

TEST_F(ServerTest, GivesSeveralAnswersToSeveralPrompts) {
  start();
  const Json body = {{"prompt", {"The sun is", "He said"}}, {"n", 2}, {"max_tokens", 6}, {"seed", 5}};
  const Json answer = Json::parse(complete(body)->body);
  ASSERT_EQ(answer["choices"].size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(answer["choices"][i]["index"], i);
  EXPECT_NE(answer["choices"][0]["text"], answer["choices"][1]["text"]);
  EXPECT_EQ(answer["usage"]["prompt_tokens"],
            tokenizer_->encode("The sun is").size() + tokenizer_->encode("He said").size());
  // Each is what it is alone, and the same in a stream.
  const Json alone = Json::parse(complete({{"prompt", "He said"}, {"max_tokens", 6}, {"seed", 5}})->body);
  EXPECT_EQ(alone["choices"][0]["text"], answer["choices"][2]["text"]);
  EXPECT_EQ(alone["seed"], 5);
  Json streamed = body;
  streamed["stream"] = true;
  std::vector<std::string> texts(4);
  std::istringstream lines(complete(streamed)->body);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("data: {")) continue;
    const Json choice = Json::parse(line.substr(6))["choices"][0];
    texts[choice["index"].get<std::size_t>()] += choice["text"].get<std::string>();
  }
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(texts[i], answer["choices"][i]["text"]);
}

// What lm-eval's local-completions reads: the log-probabilities of a prompt's tokens.
TEST_F(ServerTest, EchoesAPromptWithLogprobs) {
  start();
  const std::vector<std::int32_t> ids = tokenizer_->encode("The sun is hot", false);
  const Json whole = Json::parse(
      complete({{"prompt", {ids}}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 1}, {"temperature", 0}})
          ->body);
  const Json choice = whole["choices"][0];
  EXPECT_EQ(choice["text"], "The sun is hot");
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(whole["usage"]["completion_tokens"], 0);
  const Json found = choice["logprobs"];
  ASSERT_EQ(found["token_logprobs"].size(), ids.size());
  EXPECT_TRUE(found["token_logprobs"][0].is_null());
  // The engine's own numbers, one token at a time.
  BatchEngine alone(*model_, *backend_, ComputeType::kF32, 1, 140, nullptr);
  alone.start({.positions = 140});
  for (std::size_t t = 1; t < ids.size(); ++t) {
    const ConstMatrixView logits = alone.prefill(0, std::span(ids).subspan(t - 1, 1));
    const TokenChances expected = token_chances(logits.row_span(0), ids[t], 1);
    EXPECT_NEAR(found["token_logprobs"][t].get<double>(), expected.logprob, 1e-4);
    double best = -1e9;
    for (const auto& [text, logprob] : found["top_logprobs"][t].items())
      best = std::max(best, logprob.get<double>());
    EXPECT_NEAR(best, expected.top[0].logprob, 1e-4);
  }
  const Json more = Json::parse(
      complete({{"prompt", {ids}}, {"max_tokens", 1}, {"echo", true}, {"logprobs", 1}, {"temperature", 0}})
          ->body);
  EXPECT_EQ(more["choices"][0]["logprobs"]["tokens"].size(), ids.size() + 1);
}

TEST_F(ServerTest, KeepsTheAnswerInsideASchema) {
  start();
  const Json schema = {{"type", "object"},
                       {"properties", {{"ok", {{"type", "boolean"}}}, {"n", {{"enum", {1, 2}}}}}},
                       {"required", {"ok", "n"}},
                       {"additionalProperties", false}};
  for (int seed = 0; seed < 5; ++seed) {
    const Json body = {{"prompt", "The sun"},
                       {"max_tokens", 80},
                       {"seed", seed},
                       {"response_format", {{"type", "json_schema"}, {"json_schema", {{"schema", schema}}}}}};
    const Json choice = Json::parse(complete(body)->body)["choices"][0];
    if (choice["finish_reason"] != "stop") continue;  // spaces took its tokens
    const Json document = Json::parse(choice["text"].get<std::string>());
    EXPECT_TRUE(document["ok"].is_boolean());
    EXPECT_TRUE(document["n"] == 1 || document["n"] == 2);
  }
}

TEST_F(ServerTest, SamplingFieldsChangeTheAnswer) {
  start();
  const Json body = {{"prompt", "The sun is"}, {"max_tokens", 8}, {"temperature", 0}};
  const auto text_of = [&](const Json& more) {
    Json changed = body;
    changed.update(more);
    return Json::parse(complete(changed)->body)["choices"][0]["text"].get<std::string>();
  };
  const std::string plain = text_of(Json::object());
  const Json scored = Json::parse(
      complete({{"prompt", "The sun is"}, {"max_tokens", 8}, {"temperature", 0}, {"logprobs", 0}})->body);
  EXPECT_EQ(scored["choices"][0]["text"], plain);
  EXPECT_EQ(text_of({{"temperature", 2}, {"top_k", 1}}), plain);
  EXPECT_EQ(text_of({{"temperature", 2}, {"min_p", 1}}), plain);
  EXPECT_NE(text_of({{"repetition_penalty", 50}, {"frequency_penalty", 2}}), plain);
}

TEST_F(ServerTest, TwoCannotHaveOnePort) {
  start();
  ServerOptions options;
  options.port = server_->port();
  test::expect_error(
      ErrorKind::kFailure, [&] { Server(*model_, *engine_, *tokenizer_, options); },
      std::to_string(options.port));
}

}  // namespace
}  // namespace swiftprune
