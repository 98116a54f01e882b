#include "swiftprune/serving/openai_api.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <random>
#include <utility>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/serving/json_schema.h"
#include "swiftprune/templates/json_value.h"

namespace swiftprune {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kUsualTokens = 256;
constexpr std::size_t kMaxStops = 4;
constexpr std::size_t kMaxStopIds = 128;
constexpr std::size_t kMaxBiases = 1024;
constexpr std::size_t kMaxMessages = 1024;
constexpr std::int64_t kMaxLogprobs = 20;

std::int32_t token_id(const Json& value, std::string_view where, const ApiModel& model) {
  const bool valid = value.is_number_integer() && value >= 0 && value < model.vocab_size;
  if (!valid)
    refuse(fmt::format("{}: found {}, expected token ids below {}", where, shown(value), model.vocab_size));
  return value.get<std::int32_t>();
}

std::vector<std::string> stops(const RequestFields& fields) {
  const Json* found = fields.find("stop");
  if (found == nullptr) return {};
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

std::vector<std::int32_t> end_tokens_of(const RequestFields& fields, const ApiModel& model) {
  std::vector<std::int32_t> ids;
  if (!fields.flag("ignore_eos")) ids = model.end_tokens;
  const Json* found = fields.find("stop_token_ids");
  if (found == nullptr) return ids;
  if (!found->is_array() || found->size() > kMaxStopIds)
    refuse(fmt::format("stop_token_ids: expected a list of up to {} token ids", kMaxStopIds));
  for (const Json& id : *found) ids.push_back(token_id(id, "stop_token_ids", model));
  return ids;
}

LogitRules rules_of(const RequestFields& fields, const ApiModel& model) {
  LogitRules rules;
  rules.presence_penalty = fields.number("presence_penalty", 0.0, -2.0, 2.0);
  rules.frequency_penalty = fields.number("frequency_penalty", 0.0, -2.0, 2.0);
  rules.repetition_penalty = fields.number("repetition_penalty", 1.0, 0.01, 100.0);
  const Json* bias = fields.find("logit_bias");
  if (bias == nullptr) return rules;
  if (!bias->is_object() || bias->size() > kMaxBiases)
    refuse(fmt::format("logit_bias: expected an object of up to {} token ids", kMaxBiases));
  for (const auto& [key, value] : bias->items()) {
    std::int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size()) id = -1;
    if (id < 0 || id >= model.vocab_size || !value.is_number() || !(value >= -100.0 && value <= 100.0)) {
      refuse(fmt::format("logit_bias: found {}: {}, expected token ids below {} and numbers from -100 to 100",
                         json_quoted(std::string_view(key).substr(0, 64)), shown(value), model.vocab_size));
    }
    rules.bias.emplace_back(id, value.get<float>());
  }
  return rules;
}

std::uint64_t seed_of(const RequestFields& fields) {
  const Json* found = fields.find("seed");
  if (found == nullptr) {
    std::random_device device;
    // 53 bits: every JSON reader can give it back.
    return ((std::uint64_t{device()} << 32) | device()) & ((std::uint64_t{1} << 53) - 1);
  }
  if (!found->is_number_integer())
    refuse(fmt::format("seed: found {}, expected a 64-bit integer", shown(*found)));
  return found->is_number_unsigned() ? found->get<std::uint64_t>()
                                     : static_cast<std::uint64_t>(found->get<std::int64_t>());
}

// The draws of the further answers to a prompt differ from the first's (splitmix64, Steele et al. 2014).
std::uint64_t seed_of_answer(std::uint64_t seed, std::uint64_t answer) {
  if (answer == 0) return seed;
  std::uint64_t z = seed + answer * 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

std::shared_ptr<const TokenGrammar> grammar_of(const RequestFields& fields, const ApiModel& model) {
  const Json* format = fields.find("response_format");
  if (format == nullptr) return nullptr;
  constexpr std::array<std::string_view, 2> kMembers = {"type", "json_schema"};
  check_members(*format, "response_format", kMembers);
  const Json type = format->value("type", Json());
  if (type == "text") return nullptr;
  auto grammar = std::make_shared<TokenGrammar>();
  if (type == "json_object") {
    grammar->schema = any_json_object();
  } else if (type == "json_schema") {
    constexpr std::array<std::string_view, 4> kParts = {"name", "description", "schema", "strict"};
    const Json described = format->value("json_schema", Json());
    check_members(described, "response_format.json_schema", kParts);
    if (!described.contains("schema")) refuse("response_format.json_schema: expected a schema");
    try {
      grammar->schema = compile_json_schema(described["schema"], "response_format.json_schema.schema");
    } catch (const Error& error) {
      refuse(error.what());
    }
  } else {
    refuse(fmt::format("response_format.type: found {}, expected text, json_object or json_schema",
                       shown(type)));
  }
  grammar->tokens = model.tokens->get();
  return grammar;
}

void read_logprobs(const RequestFields& fields, bool chat, GenerationRequest& generation) {
  if (!chat) {
    generation.logprobs = fields.integer("logprobs", 0, kMaxLogprobs);
    return;
  }
  const auto top = fields.integer("top_logprobs", 0, kMaxLogprobs);
  if (fields.flag("logprobs")) {
    generation.logprobs = top.value_or(0);
  } else if (top) {
    refuse("top_logprobs: expected \"logprobs\": true beside it");
  }
}

std::int64_t max_tokens_of(const RequestFields& fields, const ApiLimits& limits, std::int64_t prompt_tokens,
                           bool echo) {
  const std::int64_t left = limits.capacity - prompt_tokens;
  const std::int64_t room = std::min(limits.max_tokens, left);
  const std::string_view key = fields.find("max_completion_tokens") ? "max_completion_tokens" : "max_tokens";
  const auto wanted = fields.integer(key, echo ? 0 : 1, INT32_MAX);
  // Two names for one thing: none of them is left aside without a word.
  if (const auto other = fields.integer("max_tokens", echo ? 0 : 1, INT32_MAX); other && other != wanted)
    refuse(fmt::format("max_tokens: found {}, expected max_completion_tokens ({}), or one of them", *other,
                       *wanted));
  if (const std::int64_t least = wanted.value_or(1); !limits.memory_option.empty() && least > left) {
    refuse(fmt::format(
        "prompt and {}: found {} and {} tokens, expected at most {} together, for which there is memory; a "
        "larger {} gives the server more",
        key, prompt_tokens, least, limits.capacity, limits.memory_option));
  }
  if (wanted && *wanted > room)
    refuse(fmt::format("{}: found {}, expected at most {} here", key, *wanted, room));
  return wanted.value_or(std::min(kUsualTokens, room));
}

// What the prompts of a request share.
GenerationRequest shared_part(const RequestFields& fields, const ApiModel& model, bool chat, bool echo) {
  GenerationRequest generation;
  generation.end_tokens = end_tokens_of(fields, model);
  generation.rules = rules_of(fields, model);
  generation.sampler.temperature = fields.number("temperature", 1.0, 0.0, 2.0);
  generation.sampler.top_p = fields.number("top_p", 1.0, 1e-6, 1.0);
  generation.sampler.min_p = fields.number("min_p", 0.0, 0.0, 1.0);
  // -1 as in other servers: all.
  generation.sampler.top_k = std::max<std::int64_t>(0, fields.integer("top_k", -1, INT32_MAX).value_or(0));
  generation.min_tokens = fields.integer("min_tokens", 0, INT32_MAX).value_or(0);
  generation.grammar = grammar_of(fields, model);
  read_logprobs(fields, chat, generation);
  generation.prompt_logprobs = echo && generation.logprobs;
  return generation;
}

void check_prompt(const std::vector<std::int32_t>& prompt, const ApiModel& model, const ApiLimits& limits) {
  if (prompt.empty()) refuse("prompt: found no tokens, expected at least one");
  if (std::ssize(prompt) > limits.max_prompt_tokens)
    refuse(
        fmt::format("prompt: found {} tokens, expected at most {}", prompt.size(), limits.max_prompt_tokens));
  // Tokenizers get tokens that the embedding has no rows for.
  for (const std::int32_t id : prompt) {
    if (id < model.vocab_size) continue;
    refuse(fmt::format("prompt: found the token {} ({}), expected ids below the model's vocab_size {}", id,
                       json_quoted(model.tokenizer.token(id)), model.vocab_size));
  }
}

struct Prompt {
  std::vector<std::int32_t> ids;
  std::string text;
};

ApiRequest make_request(const RequestFields& fields, const ApiModel& model, const ApiLimits& limits,
                        std::vector<Prompt> prompts, bool chat) {
  ApiRequest request;
  request.chat = chat;
  request.echo = !chat && fields.flag("echo");
  const std::int64_t n = fields.integer("n", 1, limits.max_answers).value_or(1);
  if (const auto best = chat ? std::nullopt : fields.integer("best_of", 1, limits.max_answers);
      best && *best != n)
    refuse(
        fmt::format("best_of: found {}, expected n ({}): all answers are given, none is chosen", *best, n));
  if (n * std::ssize(prompts) > limits.max_answers) {
    refuse(fmt::format("prompt: found {} answers (prompts times n), expected at most {} in one request",
                       n * std::ssize(prompts), limits.max_answers));
  }
  request.answers_per_prompt = static_cast<std::size_t>(n);
  request.stop = stops(fields);
  request.seed = seed_of(fields);
  request.stream = fields.flag("stream");
  if (const Json* options = fields.find("stream_options")) {
    constexpr std::array<std::string_view, 2> kMembers = {"include_usage", "include_obfuscation"};
    check_members(*options, "stream_options", kMembers);
    const Json usage = options->value("include_usage", Json(false));
    if (!usage.is_boolean()) refuse("stream_options.include_usage: expected true or false");
    request.include_usage = usage.get<bool>();
  }
  const GenerationRequest shared = shared_part(fields, model, chat, request.echo);
  request.min_tokens = shared.min_tokens;
  for (Prompt& prompt : prompts) {
    check_prompt(prompt.ids, model, limits);
    GenerationRequest generation = shared;
    generation.max_tokens = max_tokens_of(fields, limits, std::ssize(prompt.ids), request.echo);
    if (generation.min_tokens > generation.max_tokens)
      refuse(fmt::format("min_tokens: found {}, expected at most max_tokens ({})", generation.min_tokens,
                         generation.max_tokens));
    generation.prompt = std::move(prompt.ids);
    for (std::int64_t answer = 0; answer < n; ++answer) {
      generation.sampler.seed = seed_of_answer(request.seed, static_cast<std::uint64_t>(answer));
      request.generations.push_back(generation);
    }
    request.prompt_texts.push_back(std::move(prompt.text));
  }
  return request;
}

std::vector<std::int32_t> encode(const Tokenizer& tokenizer, const std::string& text, bool add_special) {
  try {
    return tokenizer.encode(text, add_special);
  } catch (const Error& error) {
    refuse(error.what());
  }
}

Prompt prompt_of_ids(const Json& list, const ApiModel& model) {
  Prompt prompt;
  for (const Json& id : list) prompt.ids.push_back(token_id(id, "prompt", model));
  prompt.text = model.tokenizer.decode(prompt.ids);
  return prompt;
}

// A text, a list of ids, or a list of either.
std::vector<Prompt> prompts_of(const RequestFields& fields, const ApiModel& model, const ApiLimits& limits) {
  constexpr std::string_view kExpected = "prompt: expected a text, a list of token ids, or a list of them";
  const Json* found = fields.find("prompt");
  if (found == nullptr) refuse("prompt: missing; " + std::string(kExpected));
  const bool one = found->is_string() || (found->is_array() && (found->empty() || (*found)[0].is_number()));
  if (!one && !found->is_array()) refuse(std::string(kExpected));
  if (!one && std::ssize(*found) > limits.max_answers)
    refuse(fmt::format("prompt: found {} prompts, expected at most {}", found->size(), limits.max_answers));
  std::vector<Prompt> prompts;
  for (const Json& item : one ? Json::array({*found}) : *found) {
    if (item.is_string()) {
      const std::string& text = item.get_ref<const std::string&>();
      prompts.push_back({encode(model.tokenizer, text, true), text});
    } else if (item.is_array()) {
      prompts.push_back(prompt_of_ids(item, model));
    } else {
      refuse(std::string(kExpected));
    }
  }
  return prompts;
}

// What this server can give to a model: a template would write other contents as Python shows them, and other
// parts as empty marks.
void check_messages(const RequestFields& fields) {
  const Json* messages = fields.find("messages");
  if (messages == nullptr || !messages->is_array()) return;  // the template's reader says so
  for (const Json& message : *messages) {
    if (!message.is_object()) continue;
    if (!message.contains("role") || !message["role"].is_string())
      refuse("messages: role: expected a text, such as user, in each message");
    const Json content = message.value("content", Json());
    if (content.is_null() || content.is_string()) continue;
    if (!content.is_array())
      refuse(fmt::format("messages: content: found {}, expected a text, or parts of the type text",
                         shown(content)));
    for (const Json& part : content) {
      if (!part.is_object() || !part.contains("type") || part["type"] != "text" || !part.contains("text") ||
          !part["text"].is_string())
        refuse("messages: content: expected a text, or parts of the type text");
    }
  }
}

// The body for the template, which does not see the seed: one from 2^63 on would be no integer there.
std::string without_large_seed(const std::string& body, const RequestFields& fields) {
  const Json* seed = fields.find("seed");
  if (seed == nullptr || !seed->is_number_unsigned() || seed->get<std::uint64_t>() <= INT64_MAX) return body;
  auto members = nlohmann::ordered_json::parse(body);
  members.erase("seed");
  return members.dump();
}

// The conversation as the folder's chat template writes it: special tokens written in it are recognised, none
// is added. The body is read again, since the template sees its objects in the order of the text.
Prompt chat_prompt(const std::string& body, const Tokenizer& tokenizer,
                   const templates::ChatTemplates& chat) {
  std::string text;
  try {
    const templates::ChatRequest request =
        templates::chat_request_of(templates::parse_json_value(body, "body"));
    if (request.messages.size() > kMaxMessages)
      refuse(fmt::format("messages: found {}, expected at most {}", request.messages.size(), kMaxMessages));
    text = chat.render_parts(request);
  } catch (const Error& error) {
    refuse(error.what());
  }
  std::vector<std::int32_t> ids = encode(tokenizer, text, false);
  return {std::move(ids), std::move(text)};
}

}  // namespace

ApiRequest parse_completion(const std::string& body, const ApiModel& model, const ApiLimits& limits) {
  const RequestFields fields(body, Endpoint::kCompletions);
  return make_request(fields, model, limits, prompts_of(fields, model, limits), false);
}

ApiRequest parse_chat(const std::string& body, const ApiModel& model, const templates::ChatTemplates* chat,
                      const ApiLimits& limits) {
  const RequestFields fields(body, Endpoint::kChat);
  if (chat == nullptr)
    refuse("this model's folder has no chat template; use /v1/completions, or serve it with --chat-template");
  check_messages(fields);
  std::vector<Prompt> prompts;
  prompts.push_back(chat_prompt(without_large_seed(body, fields), model.tokenizer, *chat));
  return make_request(fields, model, limits, std::move(prompts), true);
}

}  // namespace swiftprune
