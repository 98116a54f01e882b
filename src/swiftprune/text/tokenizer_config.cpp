#include "swiftprune/text/tokenizer_config.h"

#include <algorithm>
#include <charconv>

#include "swiftprune/core/error.h"
#include "swiftprune/text/json_field.h"

namespace swiftprune::text {
namespace {

// Named special tokens of transformers; each is a text or an object with "content".
constexpr std::string_view kNamedTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                             "pad_token", "cls_token", "mask_token"};

AddedToken named_token(const JsonField& field) {
  if (!field.json().is_string()) {
    AddedToken token = AddedToken::from_json(field);
    token.special = true;
    token.normalized = field.boolean_or("normalized", false);
    return token;
  }
  return {.content = field.string(), .special = true, .normalized = false};
}

std::optional<std::int32_t> first_id(const JsonField& config, std::string_view key) {
  auto field = config.find(key);
  if (!field) return std::nullopt;
  if (field->json().is_array()) {  // several stop tokens
    const std::vector<JsonField> ids = field->items();
    if (ids.empty()) return std::nullopt;
    return static_cast<std::int32_t>(ids[0].integer(0, INT32_MAX));
  }
  return static_cast<std::int32_t>(field->integer(0, INT32_MAX));
}

void read_added_tokens(const JsonField& config, TokenizerConfig& result) {
  const auto decoder = config.find("added_tokens_decoder");
  if (!decoder) return;
  if (!decoder->json().is_object()) decoder->unexpected("an object of ids and tokens");
  for (const auto& [key, value] : decoder->json().items()) {
    const JsonField field(value, decoder->file(), fmt::format("added_tokens_decoder[\"{}\"]", key));
    std::int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id > Vocabulary::kMaxId) {
      field.unexpected("a token id as its key");
    }
    result.added_tokens.emplace_back(id, AddedToken::from_json(field));
  }
  std::sort(result.added_tokens.begin(), result.added_tokens.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
}

void read_named_tokens(const JsonField& config, TokenizerConfig& result) {
  for (const std::string_view name : kNamedTokens) {
    const auto field = config.find(name);
    if (!field) continue;
    const AddedToken token = named_token(*field);
    if (name == "bos_token" && !result.bos_token) result.bos_token = token.content;
    if (name == "eos_token" && !result.eos_token) result.eos_token = token.content;
    const bool known = std::any_of(result.added_tokens.begin(), result.added_tokens.end(),
                                   [&](const auto& entry) { return entry.second.content == token.content; });
    if (!known) result.added_tokens.emplace_back(-1, token);
  }
}

std::optional<bool> boolean_if(const JsonField& config, std::string_view key) {
  const auto field = config.find(key);
  return field ? std::optional(field->boolean()) : std::nullopt;
}

}  // namespace

TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder, Sha256& fingerprint) {
  TokenizerConfig result;
  const auto with_file = [&](const char* name, const auto& read) {
    const std::filesystem::path file = folder / name;
    if (!std::filesystem::is_regular_file(file)) return;
    const std::string text = file_bytes(file);
    fingerprint.update(text);
    const nlohmann::json json = parse_json(text, file);
    const JsonField config(json, file.string());
    if (!json.is_object()) config.unexpected("an object");
    read(config);
    result.present = true;
  };
  with_file("tokenizer_config.json", [&](const JsonField& config) {
    read_added_tokens(config, result);
    read_named_tokens(config, result);
    result.add_bos_token = boolean_if(config, "add_bos_token");
    result.add_eos_token = boolean_if(config, "add_eos_token");
    result.legacy = boolean_if(config, "legacy");
  });
  with_file("special_tokens_map.json", [&](const JsonField& config) { read_named_tokens(config, result); });
  const bool tokenizer_files = result.present;
  with_file("generation_config.json", [&](const JsonField& config) {
    result.bos_id = first_id(config, "bos_token_id");
    result.eos_id = first_id(config, "eos_token_id");
  });
  result.present = tokenizer_files;
  return result;
}

std::optional<std::int32_t> special_id(
    const std::optional<std::string>& token, std::optional<std::int32_t> id,
    const std::function<std::optional<std::int32_t>(std::string_view)>& id_of, std::int64_t id_end) {
  if (token) {
    if (const auto found = id_of(*token)) return found;
  }
  return id && *id < id_end ? id : std::nullopt;
}

}  // namespace swiftprune::text
