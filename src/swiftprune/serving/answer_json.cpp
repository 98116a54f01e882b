#include "swiftprune/serving/answer_json.h"

#include <utility>

#include <fmt/format.h>

namespace swiftprune {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kIncomplete = "\xEF\xBF\xBD";  // U+FFFD

Json usage_json(const AnswerUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

Json head_json(const AnswerHead& head, bool chunk) {
  return {{"id", head.id},
          {"object", !head.chat ? "text_completion"
                     : chunk    ? "chat.completion.chunk"
                                : "chat.completion"},
          {"created", head.created},
          {"model", head.model},
          {"seed", head.seed}};
}

Json finish_json(const std::string& finish) { return finish.empty() ? Json() : Json(finish); }

// Parallel lists. The alternatives are an object by text; the token is always one of them, as OpenAI has it.
Json completion_logprobs(const std::vector<TokenText>& tokens) {
  Json texts = Json::array(), logprobs = Json::array(), tops = Json::array(), offsets = Json::array();
  for (const TokenText& token : tokens) {
    texts.push_back(token.text);
    offsets.push_back(token.offset);
    logprobs.push_back(token.logprob ? Json(*token.logprob) : Json());
    Json top = token.logprob ? Json::object() : Json();
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

Json chat_token(const std::string& text, double logprob) {
  Json bytes;  // null: a part of a character
  if (text.find(kIncomplete) == std::string::npos) {
    bytes = Json::array();
    for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  }
  return {{"token", text}, {"logprob", logprob}, {"bytes", std::move(bytes)}};
}

Json chat_logprobs(const std::vector<TokenText>& tokens) {
  Json content = Json::array();
  for (const TokenText& token : tokens) {
    Json entry = chat_token(token.text, token.logprob.value_or(0.0));
    entry["top_logprobs"] = Json::array();
    for (const auto& [text, logprob] : token.top) entry["top_logprobs"].push_back(chat_token(text, logprob));
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json logprobs_json(const AnswerHead& head, const AnswerChoice& choice) {
  if (!head.logprobs) return {};
  return head.chat ? chat_logprobs(choice.piece.tokens) : completion_logprobs(choice.piece.tokens);
}

}  // namespace

Json whole_answer(const AnswerHead& head, std::span<const AnswerChoice> choices, const AnswerUsage& usage) {
  Json result = head_json(head, false);
  result["choices"] = Json::array();
  for (const AnswerChoice& choice : choices) {
    Json entry = {{"index", choice.index}};
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

Json answer_chunk(const AnswerHead& head, const AnswerChoice& choice, bool first) {
  const std::string& text = choice.piece.text;
  Json entry = {{"index", choice.index}};
  if (head.chat) {
    Json delta = Json::object();
    if (first) delta["role"] = "assistant";
    if (first || !text.empty()) delta["content"] = text;
    entry["delta"] = std::move(delta);
  } else {
    entry["text"] = text;
  }
  entry["logprobs"] = logprobs_json(head, choice);
  entry["finish_reason"] = finish_json(choice.finish);
  Json result = head_json(head, true);
  result["choices"] = Json::array({std::move(entry)});
  return result;
}

Json usage_chunk(const AnswerHead& head, const AnswerUsage& usage) {
  Json result = head_json(head, true);
  result["choices"] = Json::array();
  result["usage"] = usage_json(usage);
  return result;
}

}  // namespace swiftprune
