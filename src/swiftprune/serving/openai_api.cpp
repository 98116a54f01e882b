#include "swiftprune/serving/openai_api.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kUsualTokens = 256;
constexpr std::size_t kMaxStops = 4;
constexpr std::size_t kMaxMessages = 1024;

[[noreturn]] void refuse(const std::string& message) {
  throw ApiError{400, "invalid_request_error", message};
}

Json parse_body(const std::string& body) {
  Json document;
  try {
    document = parse_json(body, "body");
  } catch (const Error& error) {
    refuse(error.what());
  }
  if (!document.is_object()) refuse("body: expected a JSON object");
  return document;
}

double number(const Json& body, const char* key, double fallback, double least, double most) {
  const auto found = body.find(key);
  if (found == body.end() || found->is_null()) return fallback;
  const double value = found->is_number() ? found->get<double>() : std::nan("");
  if (!(value >= least && value <= most))
    refuse(fmt::format("{}: found {}, expected a number from {} to {}", key, found->dump().substr(0, 64),
                       least, most));
  return value;
}

bool flag(const Json& body, const char* key) {
  const auto found = body.find(key);
  if (found == body.end() || found->is_null()) return false;
  if (!found->is_boolean()) refuse(fmt::format("{}: expected true or false", key));
  return found->get<bool>();
}

std::vector<std::string> stops(const Json& body) {
  const auto found = body.find("stop");
  if (found == body.end() || found->is_null()) return {};
  std::vector<std::string> result;
  const auto add = [&](const Json& item) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty())
      refuse("stop: expected a text or up to 4 texts, none empty");
    result.push_back(item.get<std::string>());
  };
  if (found->is_array()) {
    for (const Json& item : *found) add(item);
  } else {
    add(*found);
  }
  if (result.size() > kMaxStops) refuse("stop: expected a text or up to 4 texts, none empty");
  return result;
}

// What both bodies share; `prompt` is there already.
void parse_rest(const Json& body, const Tokenizer& tokenizer, const ApiLimits& limits, ApiRequest& request) {
  for (const char* key : {"n", "best_of"}) {
    if (number(body, key, 1, 1, 128) != 1) refuse(fmt::format("{}: expected 1: one answer a request", key));
  }
  GenerationRequest& generation = request.generation;
  const auto prompt_tokens = static_cast<std::int64_t>(generation.prompt.size());
  if (prompt_tokens == 0) refuse("prompt: found no tokens, expected at least one");
  if (prompt_tokens > limits.max_prompt_tokens) {
    refuse(
        fmt::format("prompt: found {} tokens, expected at most {}", prompt_tokens, limits.max_prompt_tokens));
  }
  const std::int64_t room = std::min(limits.max_tokens, limits.capacity - prompt_tokens);
  const auto whole = [&](const char* key, std::int64_t fallback) {
    const double value = number(body, key, static_cast<double>(fallback), 1, 1e9);
    if (value != std::floor(value)) refuse(fmt::format("{}: found {}, expected a whole number", key, value));
    return static_cast<std::int64_t>(value);
  };
  const std::int64_t wanted =
      whole("max_completion_tokens", whole("max_tokens", std::min(kUsualTokens, room)));
  if (wanted > room) refuse(fmt::format("max_tokens: found {}, expected at most {} here", wanted, room));
  generation.max_tokens = wanted;
  generation.sampler.temperature = number(body, "temperature", 1.0, 0.0, 2.0);
  generation.sampler.top_p = number(body, "top_p", 1.0, 1e-6, 1.0);
  generation.sampler.seed = static_cast<std::uint64_t>(number(body, "seed", 0, -9e15, 9e15));
  if (!generation.end_token) generation.end_token = tokenizer.eos();
  request.stop = stops(body);
  request.stream = flag(body, "stream");
  const auto options = body.find("stream_options");
  if (options != body.end() && options->is_object()) request.include_usage = flag(*options, "include_usage");
}

std::vector<std::int32_t> encode(const Tokenizer& tokenizer, const std::string& text, bool add_special) {
  try {
    return tokenizer.encode(text, add_special);
  } catch (const Error& error) {
    refuse(error.what());
  }
}

std::vector<std::int32_t> prompt_of(const Json& body, const Tokenizer& tokenizer) {
  const auto found = body.find("prompt");
  if (found == body.end()) refuse("prompt: missing, expected a text or a list of token ids");
  const Json* prompt = &*found;
  // A list of one text counts as that text.
  if (prompt->is_array() && prompt->size() == 1 && !(*prompt)[0].is_number()) prompt = &(*prompt)[0];
  if (prompt->is_string()) return encode(tokenizer, prompt->get<std::string>(), true);
  if (!prompt->is_array()) refuse("prompt: expected a text or a list of token ids");
  std::vector<std::int32_t> ids;
  for (const Json& item : *prompt) {
    if (!item.is_number_integer() || item.get<std::int64_t>() < 0 ||
        item.get<std::int64_t>() >= tokenizer.vocab_size()) {
      refuse(fmt::format("prompt: found {}, expected one text or token ids below {}",
                         item.dump().substr(0, 64), tokenizer.vocab_size()));
    }
    ids.push_back(item.get<std::int32_t>());
  }
  return ids;
}

std::string content_of(const Json& message) {
  const auto found = message.find("content");
  if (found != message.end() && found->is_string()) return found->get<std::string>();
  if (found == message.end() || !found->is_array()) refuse("messages: content: expected a text");
  std::string text;
  for (const Json& part : *found) {
    if (!part.is_object() || part.value("type", "") != "text" || !part.contains("text") ||
        !part["text"].is_string())
      refuse("messages: content: expected parts of the type text");
    text += part["text"].get<std::string>();
  }
  return text;
}

std::vector<ChatMessage> messages_of(const Json& body) {
  const auto found = body.find("messages");
  if (found == body.end() || !found->is_array() || found->empty() || found->size() > kMaxMessages)
    refuse("messages: expected a list of 1 to 1024 messages");
  std::vector<ChatMessage> messages;
  for (const Json& message : *found) {
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string())
      refuse("messages: expected objects with role and content");
    std::string role = message["role"].get<std::string>();
    if (role == "developer") role = "system";
    messages.push_back({role, content_of(message)});
  }
  return messages;
}

nlohmann::ordered_json usage(std::int64_t prompt_tokens, std::int64_t completion_tokens) {
  return {{"prompt_tokens", prompt_tokens},
          {"completion_tokens", completion_tokens},
          {"total_tokens", prompt_tokens + completion_tokens}};
}

nlohmann::ordered_json finish_json(const std::string& finish) {
  return finish.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(finish);
}

nlohmann::ordered_json head(const ApiAnswer& answer, bool chunk) {
  return {{"id", answer.id},
          {"object", !answer.chat ? "text_completion"
                     : chunk      ? "chat.completion.chunk"
                                  : "chat.completion"},
          {"created", answer.created},
          {"model", answer.model}};
}

}  // namespace

nlohmann::ordered_json to_json(const ApiError& error) {
  return {
      {"error", {{"message", error.message}, {"type", error.type}, {"param", nullptr}, {"code", nullptr}}}};
}

ApiRequest parse_completion(const std::string& body, const Tokenizer& tokenizer, const ApiLimits& limits) {
  const Json document = parse_body(body);
  ApiRequest request;
  request.generation.prompt = prompt_of(document, tokenizer);
  parse_rest(document, tokenizer, limits, request);
  return request;
}

ApiRequest parse_chat(const std::string& body, const Tokenizer& tokenizer, std::optional<ChatFormat> format,
                      const ApiLimits& limits) {
  const Json document = parse_body(body);
  if (!format) refuse("this model has no chat template that is known here; use /v1/completions");
  ApiRequest request;
  request.chat = true;
  ChatText text;
  try {
    text = chat_text(*format, messages_of(document));
  } catch (const Error& error) {
    refuse(error.what());
  }
  request.generation.prompt = encode(tokenizer, text.text, false);
  request.generation.end_token = tokenizer.id_of(text.end_token);
  parse_rest(document, tokenizer, limits, request);
  return request;
}

std::string StopFilter::add(std::string_view piece) {
  if (found_) return "";
  held_ += piece;
  std::size_t cut = std::string::npos;
  for (const std::string& stop : stops_) cut = std::min(cut, held_.find(stop));
  if (cut != std::string::npos) {
    found_ = true;
    std::string shown = held_.substr(0, cut);
    held_.clear();
    return shown;
  }
  std::size_t keep = 0;  // the longest end that a stop text begins with
  for (const std::string& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.ends_with(std::string_view(stop).substr(0, n))) keep = n;
    }
  }
  std::string shown = held_.substr(0, held_.size() - keep);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopFilter::rest() { return found_ ? "" : std::exchange(held_, ""); }

nlohmann::ordered_json whole_answer(const ApiAnswer& answer, const std::string& text,
                                    const std::string& finish, std::int64_t prompt_tokens,
                                    std::int64_t completion_tokens) {
  nlohmann::ordered_json choice = {{"index", 0}};
  if (answer.chat) {
    choice["message"] = {{"role", "assistant"}, {"content", text}};
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = finish_json(finish);
  nlohmann::ordered_json result = head(answer, false);
  result["choices"] = {std::move(choice)};
  result["usage"] = usage(prompt_tokens, completion_tokens);
  return result;
}

nlohmann::ordered_json answer_chunk(const ApiAnswer& answer, const std::string& text,
                                    const std::string& finish, bool first) {
  nlohmann::ordered_json choice = {{"index", 0}};
  if (answer.chat) {
    nlohmann::ordered_json delta = nlohmann::ordered_json::object();
    if (first) delta["role"] = "assistant";
    if (first || !text.empty()) delta["content"] = text;
    choice["delta"] = std::move(delta);
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = finish_json(finish);
  nlohmann::ordered_json result = head(answer, true);
  result["choices"] = {std::move(choice)};
  return result;
}

nlohmann::ordered_json usage_chunk(const ApiAnswer& answer, std::int64_t prompt_tokens,
                                   std::int64_t completion_tokens) {
  nlohmann::ordered_json result = head(answer, true);
  result["choices"] = nlohmann::ordered_json::array();
  result["usage"] = usage(prompt_tokens, completion_tokens);
  return result;
}

}  // namespace swiftprune
