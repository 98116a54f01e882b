#include "swiftprune/text/tokenizer_config.h"

#include <algorithm>
#include <charconv>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/core/read_file.h"

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

// Everything that the files say of special and added tokens, before it is put in order.
class TokenReader {
 public:
  explicit TokenReader(std::span<const NamedToken> defaults) {
    for (const auto& [name, content] : defaults)
      named_.emplace_back(name,
                          AddedToken{.content = std::string(content), .special = true, .normalized = false});
  }

  bool has_decoder() const { return has_decoder_; }

  void read_config(const JsonField& config) {
    read_decoder(config);
    read_named(config);
    has_extra_ =
        read_extra(config, "extra_special_tokens") || read_extra(config, "additional_special_tokens");
  }
  // special_tokens_map.json, which counts where tokenizer_config.json has no added_tokens_decoder.
  void read_map(const JsonField& map) {
    read_named(map);
    read_extra(map, "extra_special_tokens");
    if (!has_extra_) read_extra(map, "additional_special_tokens");
  }
  // added_tokens.json: {"spelling": id}; likewise.
  void read_added(const JsonField& added) {
    for (const auto& [content, value] : added.json().items()) {
      const JsonField id(value, added.file(), json_quoted(content));
      const bool special = is_special(content);
      by_id_.emplace_back(static_cast<std::int32_t>(id.integer(0, Vocabulary::kMaxId)),
                          AddedToken{.content = content, .special = special, .normalized = !special});
    }
  }

  void finish(TokenizerConfig& result) {
    std::stable_sort(by_id_.begin(), by_id_.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    result.added_tokens = std::move(by_id_);
    const auto add = [&](const AddedToken& token) {
      const bool known =
          std::any_of(result.added_tokens.begin(), result.added_tokens.end(),
                      [&](const auto& entry) { return entry.second.content == token.content; });
      if (!known) result.added_tokens.emplace_back(-1, token);
    };
    for (const std::string_view name : kNamedTokens) {
      for (const auto& [own, token] : named_) {
        if (own != name) continue;
        add(token);
        if (name == "bos_token") result.bos_token = token.content;
        if (name == "eos_token") result.eos_token = token.content;
      }
    }
    for (const auto& [name, token] : named_) {
      if (std::find(std::begin(kNamedTokens), std::end(kNamedTokens), name) == std::end(kNamedTokens))
        add(token);
    }
    for (const AddedToken& token : extra_) add(token);
  }

 private:
  void read_decoder(const JsonField& config) {
    const auto decoder = config.find("added_tokens_decoder");
    if (!decoder) return;
    has_decoder_ = true;
    if (!decoder->json().is_object()) decoder->unexpected("an object of ids and tokens");
    for (const auto& [key, value] : decoder->json().items()) {
      const JsonField field(value, decoder->file(), fmt::format("added_tokens_decoder[\"{}\"]", key));
      std::int32_t id = -1;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (error != std::errc() || end != key.data() + key.size() || id < 0 || id > Vocabulary::kMaxId) {
        field.unexpected("a token id as its key");
      }
      by_id_.emplace_back(id, AddedToken::from_json(field));
    }
  }

  // The usual names, and a model's own: "image_token". null takes a name away.
  void read_named(const JsonField& config) {
    for (const auto& [name, value] : config.json().items()) {
      const bool usual =
          std::find(std::begin(kNamedTokens), std::end(kNamedTokens), name) != std::end(kNamedTokens);
      const bool own = !usual && name.ends_with("_token") && (value.is_string() || value.is_object());
      if (!usual && !own) continue;
      std::erase_if(named_, [&](const auto& entry) { return entry.first == name; });
      if (!value.is_null()) named_.emplace_back(name, named_token(JsonField(value, config.file(), name)));
    }
  }

  // A list of tokens, or an object of names and tokens; whether there were any.
  bool read_extra(const JsonField& config, std::string_view key) {
    const auto field = config.find(key);
    if (!field) return false;
    std::vector<JsonField> items;
    if (field->json().is_object()) {
      for (const auto& [name, value] : field->json().items())
        items.emplace_back(value, field->file(), fmt::format("{}.{}", key, name));
    } else {
      items = field->items();
    }
    for (const JsonField& item : items) extra_.push_back(named_token(item));
    return !items.empty();
  }

  bool is_special(std::string_view content) const {
    return std::any_of(named_.begin(), named_.end(),
                       [&](const auto& entry) { return entry.second.content == content; }) ||
           std::any_of(extra_.begin(), extra_.end(),
                       [&](const AddedToken& token) { return token.content == content; });
  }

  bool has_decoder_ = false, has_extra_ = false;
  std::vector<std::pair<std::int32_t, AddedToken>> by_id_;
  std::vector<std::pair<std::string, AddedToken>> named_;
  std::vector<AddedToken> extra_;
};

std::optional<bool> boolean_if(const JsonField& config, std::string_view key) {
  const auto field = config.find(key);
  return field ? std::optional(field->boolean()) : std::nullopt;
}

}  // namespace

TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder, Sha256& fingerprint,
                                      std::span<const NamedToken> defaults) {
  TokenizerConfig result;
  TokenReader tokens(defaults);
  const auto with_file = [&](const char* name, const auto& read) {
    const std::filesystem::path file = folder / name;
    if (!std::filesystem::is_regular_file(file)) return;
    const std::string text = file_bytes(file);
    fingerprint.update(text);
    const nlohmann::json json = parse_json(text, file.string());
    const JsonField config(json, file.string());
    if (!json.is_object()) config.unexpected("an object");
    read(config);
    result.present = true;
  };
  with_file("tokenizer_config.json", [&](const JsonField& config) {
    tokens.read_config(config);
    result.tokenizer_class = config.string_if("tokenizer_class");
    constexpr std::string_view kFast = "Fast";
    if (result.tokenizer_class && result.tokenizer_class->ends_with(kFast))
      result.tokenizer_class->resize(result.tokenizer_class->size() - kFast.size());
    result.add_bos_token = boolean_if(config, "add_bos_token");
    result.add_eos_token = boolean_if(config, "add_eos_token");
    result.add_prefix_space = boolean_if(config, "add_prefix_space");
    result.legacy = boolean_if(config, "legacy");
    if (boolean_if(config, "split_special_tokens").value_or(false)) {
      config.at("split_special_tokens")
          .unexpected("false: special tokens in a text are always read as such here");
    }
  });
  if (!tokens.has_decoder()) {
    with_file("special_tokens_map.json", [&](const JsonField& map) { tokens.read_map(map); });
    with_file("added_tokens.json", [&](const JsonField& added) { tokens.read_added(added); });
  }
  tokens.finish(result);
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
