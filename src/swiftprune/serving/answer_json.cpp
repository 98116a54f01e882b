#include "swiftprune/serving/answer_json.h"

#include <utility>

#include <fmt/format.h>

#include "swiftprune/serving/token_table.h"

namespace swiftprune {
namespace {

using OrderedJson = nlohmann::ordered_json;

OrderedJson usage_json(const AnswerUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

OrderedJson head_json(const AnswerHead& head, bool chunk) {
  return {{"id", head.id},
          {"object", !head.chat ? "text_completion"
                     : chunk    ? "chat.completion.chunk"
                                : "chat.completion"},
          {"created", head.created},
          {"model", head.model},
          {"seed", head.seed}};
}

OrderedJson finish_json(const std::string& finish) {
  return finish.empty() ? OrderedJson() : OrderedJson(finish);
}

// Parallel lists. The alternatives are an object by text; the token is always one of them, as OpenAI has it.
OrderedJson completion_logprobs(const std::vector<TokenText>& tokens) {
  OrderedJson texts = OrderedJson::array(), logprobs = OrderedJson::array(), tops = OrderedJson::array(),
              offsets = OrderedJson::array();
  for (const TokenText& token : tokens) {
    texts.push_back(token.text);
    offsets.push_back(token.offset);
    logprobs.push_back(token.logprob ? OrderedJson(*token.logprob) : OrderedJson());
    OrderedJson top = token.logprob ? OrderedJson::object() : OrderedJson();
    // Two tokens with one text: the likelier one keeps it.
    for (const auto& [text, logprob] : token.top) {
      if (!top.contains(text)) top[text] = logprob;
    }
    if (token.logprob && !top.contains(token.text)) top[token.text] = *token.logprob;
    tops.push_back(std::move(top));
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

OrderedJson chat_token(const std::string& text, double logprob) {
  OrderedJson bytes;  // null: a part of a character
  if (text.find(kIncompleteCharacter) == std::string::npos) {
    bytes = OrderedJson::array();
    for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  }
  return {{"token", text}, {"logprob", logprob}, {"bytes", std::move(bytes)}};
}

OrderedJson chat_logprobs(const std::vector<TokenText>& tokens) {
  OrderedJson content = OrderedJson::array();
  for (const TokenText& token : tokens) {
    OrderedJson entry = chat_token(token.text, token.logprob.value_or(0.0));
    entry["top_logprobs"] = OrderedJson::array();
    for (const auto& [text, logprob] : token.top) entry["top_logprobs"].push_back(chat_token(text, logprob));
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

OrderedJson logprobs_json(const AnswerHead& head, const AnswerChoice& choice) {
  if (!head.logprobs) return {};
  return head.chat ? chat_logprobs(choice.piece.tokens) : completion_logprobs(choice.piece.tokens);
}

}  // namespace

OrderedJson whole_answer(const AnswerHead& head, std::span<const AnswerChoice> choices,
                         const AnswerUsage& usage) {
  OrderedJson result = head_json(head, false);
  result["choices"] = OrderedJson::array();
  for (const AnswerChoice& choice : choices) {
    OrderedJson entry = {{"index", choice.index}};
    if (head.chat) {
      entry["message"] = {{"role", "assistant"}, {"content", choice.piece.text}};
    } else {
      entry["text"] = choice.piece.text;
    }
    entry["logprobs"] = logprobs_json(head, choice);
    entry["finish_reason"] = finish_json(choice.finish);
    result["choices"].push_back(std::move(entry));
  }
  result["usage"] = usage_json(usage);
  return result;
}

OrderedJson answer_chunk(const AnswerHead& head, const AnswerChoice& choice, bool first) {
  const std::string& text = choice.piece.text;
  OrderedJson entry = {{"index", choice.index}};
  if (head.chat) {
    OrderedJson delta = OrderedJson::object();
    if (first) delta["role"] = "assistant";
    if (first || !text.empty()) delta["content"] = text;
    entry["delta"] = std::move(delta);
  } else {
    entry["text"] = text;
  }
  entry["logprobs"] = logprobs_json(head, choice);
  entry["finish_reason"] = finish_json(choice.finish);
  OrderedJson result = head_json(head, true);
  result["choices"] = OrderedJson::array({std::move(entry)});
  return result;
}

OrderedJson usage_chunk(const AnswerHead& head, const AnswerUsage& usage) {
  OrderedJson result = head_json(head, true);
  result["choices"] = OrderedJson::array();
  result["usage"] = usage_json(usage);
  return result;
}

}  // namespace swiftprune
