// Tokens as text: cut at stop texts however the pieces fall, with log-probabilities that belong to what is
// shown.
#include "swiftprune/serving/answer_text.h"

#include <gtest/gtest.h>

#include "swiftprune/serving/answer_json.h"

namespace swiftprune {
namespace {

const Tokenizer& tokenizer() {
  static const auto loaded = Tokenizer::open(SWIFTPRUNE_TEST_DATA "/evaluation/model");
  return *loaded;
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

struct Shown {
  std::string text;
  std::vector<TokenText> tokens;
  std::string finish;
};

// The answer "sun is hot" to "The", each token with itself as the likeliest.
Shown answer(const std::vector<std::string>& stop, bool echo, std::int64_t min_tokens = 0) {
  ApiRequest request;
  request.stop = stop;
  request.echo = echo;
  request.min_tokens = min_tokens;
  request.prompt_texts = {"The"};
  GenerationRequest asked;
  asked.prompt = tokenizer().encode("The", false);
  asked.logprobs = 1;
  Generation generation(asked);
  AnswerText text(tokenizer(), request, 0, generation);
  Shown shown;
  const auto take = [&](const Generation::Event& event) {
    if (!text.finish().empty()) return;
    AnswerText::Piece piece = text.take(event);
    shown.text += piece.text;
    shown.tokens.insert(shown.tokens.end(), piece.tokens.begin(), piece.tokens.end());
  };
  bool first = true;
  for (const std::int32_t id : asked.prompt) {
    if (echo && first) take({.token = id, .of_prompt = true});
    if (echo && !first) take({.token = id, .of_prompt = true, .chances = TokenChances{-1.0, {{id, -1.0}}}});
    first = false;
  }
  for (const std::int32_t id : tokenizer().encode(" sun is hot", false))
    take({.token = id, .chances = TokenChances{-0.5, {{id, -0.5}}}});
  take({.finished = FinishReason::kLength});
  shown.finish = text.finish();
  return shown;
}

std::string joined(const std::vector<TokenText>& tokens) {
  std::string text;
  for (const TokenText& token : tokens) text += token.text;
  return text;
}

TEST(AnswerText, GivesTheTokensOfTheShownText) {
  const Shown all = answer({}, false);
  EXPECT_EQ(all.text, " sun is hot");
  EXPECT_EQ(joined(all.tokens), all.text);
  EXPECT_EQ(all.finish, "length");
  std::int64_t offset = 0;
  for (const TokenText& token : all.tokens) {
    EXPECT_EQ(token.offset, offset);
    offset += static_cast<std::int64_t>(token.text.size());
    EXPECT_EQ(token.logprob, -0.5);
    ASSERT_EQ(token.top.size(), 1u);
    EXPECT_EQ(token.top[0].first, token.text);
  }
  const Shown cut = answer({" hot"}, false);
  EXPECT_EQ(cut.text, " sun is");
  EXPECT_EQ(cut.finish, "stop");
  EXPECT_TRUE(joined(cut.tokens).starts_with(cut.text));
  EXPECT_LT(cut.tokens.size(), all.tokens.size());
  EXPECT_EQ(answer({" sun"}, false, 100).text, " sun is hot");  // before min_tokens no stop text counts
}

TEST(AnswerText, EchoesThePromptWithItsLogprobs) {
  const Shown echoed = answer({}, true);
  EXPECT_EQ(echoed.text, "The sun is hot");
  EXPECT_EQ(joined(echoed.tokens), echoed.text);
  EXPECT_FALSE(echoed.tokens[0].logprob);
  std::int64_t offset = 0;
  for (const TokenText& token : echoed.tokens) {
    EXPECT_EQ(token.offset, offset);
    offset += static_cast<std::int64_t>(token.text.size());
  }
  const AnswerHead head{.id = "x", .model = "m", .logprobs = true};
  const AnswerChoice choice{.index = 2, .piece = {echoed.text, echoed.tokens}, .finish = "length"};
  const auto json = whole_answer(head, std::vector{choice}, {3, 4})["choices"][0];
  EXPECT_EQ(json["index"], 2);
  EXPECT_TRUE(json["logprobs"]["token_logprobs"][0].is_null());
  EXPECT_TRUE(json["logprobs"]["top_logprobs"][0].is_null());
  EXPECT_EQ(json["logprobs"]["tokens"].size(), echoed.tokens.size());
  EXPECT_EQ(json["logprobs"]["top_logprobs"].back()[echoed.tokens.back().text], -0.5);
}

TEST(AnswerJson, ChatHasTokensWithBytes) {
  const AnswerHead head{.id = "x", .model = "m", .chat = true, .logprobs = true};
  const TokenText token{"é", 0, -0.25, {{"é", -0.25}, {"\xEF\xBF\xBD", -2.0}}};
  const auto json = answer_chunk(head, {.index = 0, .piece = {"é", {token}}}, true)["choices"][0];
  EXPECT_EQ(json["delta"]["role"], "assistant");
  const auto entry = json["logprobs"]["content"][0];
  EXPECT_EQ(entry["bytes"], nlohmann::json({0xC3, 0xA9}));
  EXPECT_EQ(entry["top_logprobs"].size(), 2u);
  EXPECT_TRUE(entry["top_logprobs"][1]["bytes"].is_null());
}

}  // namespace
}  // namespace swiftprune
