#include "swiftprune/serving/request_fields.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

using Json = nlohmann::json;
using enum Endpoint;
using enum FieldUse;

constexpr RequestField kFields[] = {
    {"prompt", kCompletions, kDone},
    {"messages", kChat, kDone},
    {"tools", kChat, kDone},  // for the template; calls in the answer stay text
    {"documents", kChat, kDone},
    {"add_generation_prompt", kChat, kDone},
    {"continue_final_message", kChat, kDone},
    {"chat_template_kwargs", kChat, kDone},
    {"max_tokens", kBoth, kDone},
    {"max_completion_tokens", kChat, kDone},
    {"min_tokens", kBoth, kDone},
    {"temperature", kBoth, kDone},
    {"top_p", kBoth, kDone},
    {"top_k", kBoth, kDone},
    {"min_p", kBoth, kDone},
    {"seed", kBoth, kDone},
    {"presence_penalty", kBoth, kDone},
    {"frequency_penalty", kBoth, kDone},
    {"repetition_penalty", kBoth, kDone},
    {"logit_bias", kBoth, kDone},
    {"logprobs", kBoth, kDone},
    {"top_logprobs", kChat, kDone},
    {"echo", kCompletions, kDone},
    {"n", kBoth, kDone},
    {"best_of", kCompletions, kDone},
    {"stop", kBoth, kDone},
    {"stop_token_ids", kBoth, kDone},
    {"ignore_eos", kBoth, kDone},
    {"response_format", kBoth, kDone},
    {"stream", kBoth, kDone},
    {"stream_options", kBoth, kDone},

    {"model", kBoth, kHarmless},  // there is one
    {"user", kBoth, kHarmless},
    {"metadata", kBoth, kHarmless},
    {"store", kBoth, kHarmless},
    {"service_tier", kBoth, kHarmless},
    {"safety_identifier", kBoth, kHarmless},
    {"prompt_cache_key", kBoth, kHarmless},
    {"parallel_tool_calls", kChat, kHarmless},  // calls are not read from the answer

    {"suffix", kCompletions, kRefused, "text is continued, not filled in", "\"\""},
    {"tool_choice", kChat, kRefused, "calls are not forced", "\"none\" \"auto\""},
    {"functions", kChat, kRefused, "use tools", "[]"},
    {"function_call", kChat, kRefused, "there are no functions", "\"none\" \"auto\""},
    {"modalities", kChat, kRefused, "answers are text", "[\"text\"]"},
    {"audio", kChat, kRefused, "answers are text"},
    {"prediction", kChat, kRefused},
    {"reasoning_effort", kChat, kRefused},
    {"verbosity", kChat, kRefused},
    {"web_search_options", kChat, kRefused},
    {"chat_template", kChat, kRefused, "the model folder's is used, or that of serve --chat-template"},
    {"guided_json", kBoth, kRefused, "use response_format"},
    {"guided_regex", kBoth, kRefused, "use response_format"},
    {"guided_choice", kBoth, kRefused, "use response_format with an enum"},
    {"guided_grammar", kBoth, kRefused, "use response_format"},
    {"structured_outputs", kBoth, kRefused, "use response_format"},
    {"grammar", kBoth, kRefused, "use response_format", "\"\""},
    {"json_schema", kBoth, kRefused, "use response_format"},
    {"prompt_logprobs", kBoth, kRefused, "use echo with logprobs"},
    {"use_beam_search", kBoth, kRefused, "", "false"},
    {"length_penalty", kBoth, kRefused, "there is no beam search", "1 1.0"},
    {"typical_p", kBoth, kRefused, "", "1 1.0"},
    {"mirostat", kBoth, kRefused, "", "0"},
    {"bad_words", kBoth, kRefused, "use logit_bias", "[]"},
    {"allowed_token_ids", kBoth, kRefused, "use logit_bias", "[]"},
    {"include_stop_str_in_output", kBoth, kRefused, "", "false"},
    {"skip_special_tokens", kBoth, kRefused, "they are never part of a text", "true"},
    {"spaces_between_special_tokens", kBoth, kRefused, "", "true"},
    {"add_special_tokens", kBoth, kRefused, "send token ids", "true"},
    {"truncate_prompt_tokens", kBoth, kRefused, "send a shorter prompt"},
    {"return_tokens_as_token_ids", kBoth, kRefused, "", "false"},
};

bool belongs(const RequestField& field, Endpoint endpoint) {
  return (static_cast<int>(field.endpoint) & static_cast<int>(endpoint)) != 0;
}

// Levenshtein's.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t changed = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

[[noreturn]] void refuse_unknown(const std::string& key, Endpoint endpoint) {
  const std::string name = json_quoted(std::string_view(key).substr(0, 64));
  std::string_view nearest;
  std::size_t least = key.size() / 3 + 2;
  for (const RequestField& field : kFields) {
    if (!belongs(field, endpoint) || key.size() > 64) continue;
    const std::size_t away = distance(key, field.name);
    if (away < least) nearest = field.name, least = away;
  }
  if (nearest.empty()) refuse(fmt::format("{}: no such field here; docs/serving.md lists them", name));
  refuse(fmt::format("{}: no such field here; did you mean \"{}\"?", name, nearest));
}

bool asks_for_nothing(const RequestField& field, const Json& value) {
  if (value.is_null()) return true;
  const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  std::string_view left = field.neutral;
  while (!left.empty()) {
    const std::string_view one = left.substr(0, left.find(' '));
    if (text == one) return true;
    left.remove_prefix(std::min(left.size(), one.size() + 1));
  }
  return false;
}

void check_fields(const Json& body, Endpoint endpoint) {
  for (const auto& [key, value] : body.items()) {
    const auto field = std::find_if(std::begin(kFields), std::end(kFields), [&](const RequestField& known) {
      return known.name == key && belongs(known, endpoint);
    });
    if (field == std::end(kFields)) refuse_unknown(key, endpoint);
    if (field->use == kRefused && !asks_for_nothing(*field, value)) {
      refuse(field->hint.empty() ? fmt::format("{}: not supported", key)
                                 : fmt::format("{}: not supported; {}", key, field->hint));
    }
  }
}

}  // namespace

nlohmann::ordered_json to_json(const ApiError& error) {
  return {
      {"error", {{"message", error.message}, {"type", error.type}, {"param", nullptr}, {"code", nullptr}}}};
}

void refuse(const std::string& message) { throw ApiError{400, "invalid_request_error", message}; }

std::span<const RequestField> request_fields() { return kFields; }

std::string shown(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 64);
}

void check_members(const Json& object, std::string_view where, std::span<const std::string_view> known) {
  if (!object.is_object()) refuse(fmt::format("{}: found {}, expected an object", where, shown(object)));
  for (const auto& [key, value] : object.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end())
      refuse(
          fmt::format("{}.{}: no such field here", where, json_quoted(std::string_view(key).substr(0, 64))));
  }
}

RequestFields::RequestFields(const std::string& body, Endpoint endpoint) {
  try {
    body_ = parse_json(body, "body");
  } catch (const Error& error) {
    refuse(error.what());
  }
  if (!body_.is_object()) refuse("body: expected a JSON object");
  check_fields(body_, endpoint);
}

const Json* RequestFields::find(std::string_view key) const {
  const auto found = body_.find(std::string(key));
  return found == body_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<std::int64_t> RequestFields::integer(std::string_view key, std::int64_t least,
                                                   std::int64_t most) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  // 5.0 and "5" are no integers; unsigned ones from 2^63 on would wrap.
  const bool wraps = value->is_number_unsigned() && value->get<std::uint64_t>() > std::uint64_t{INT64_MAX};
  if (!value->is_number_integer() || wraps || *value < least || *value > most)
    refuse(
        fmt::format("{}: found {}, expected a whole number from {} to {}", key, shown(*value), least, most));
  return value->get<std::int64_t>();
}

double RequestFields::number(std::string_view key, double fallback, double least, double most) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  const double found = value->is_number() ? value->get<double>() : std::nan("");
  if (!(found >= least && found <= most))
    refuse(fmt::format("{}: found {}, expected a number from {} to {}", key, shown(*value), least, most));
  return found;
}

bool RequestFields::flag(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return false;
  if (!value->is_boolean()) refuse(fmt::format("{}: found {}, expected true or false", key, shown(*value)));
  return value->get<bool>();
}

}  // namespace swiftprune
