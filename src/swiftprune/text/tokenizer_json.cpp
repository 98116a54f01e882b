#include "swiftprune/text/tokenizer_json.h"

#include <algorithm>

#include "swiftprune/core/json.h"
#include "swiftprune/core/read_file.h"
#include "swiftprune/text/pipeline_tokenizer.h"
#include "swiftprune/text/tokenizer_config.h"

namespace swiftprune::text {
namespace {

std::vector<AddedToken> added_tokens(const JsonField& root, const TokenizerConfig& config) {
  std::vector<AddedToken> tokens;
  if (const auto list = root.find("added_tokens")) {
    for (const JsonField& item : list->items()) tokens.push_back(AddedToken::from_json(item));
  }
  for (const auto& [id, token] : config.added_tokens) {
    const bool known = std::any_of(tokens.begin(), tokens.end(),
                                   [&](const AddedToken& t) { return t.content == token.content; });
    if (!known) tokens.push_back(token);
  }
  return tokens;
}

void set_prefix_space(nlohmann::json& pre_tokenizer, bool wanted) {
  if (!pre_tokenizer.is_object()) return;
  const nlohmann::json type = pre_tokenizer.value("type", nlohmann::json());
  if (type == "ByteLevel") pre_tokenizer["add_prefix_space"] = wanted;
  if (type != "Sequence" || !pre_tokenizer.contains("pretokenizers")) return;
  for (nlohmann::json& part : pre_tokenizer["pretokenizers"]) set_prefix_space(part, wanted);
}

// transformers' classes whose constructors have a say in it, whatever tokenizer.json says; false where the folder says
// nothing.
void follow_class(const TokenizerConfig& config, nlohmann::json& tokenizer) {
  constexpr std::string_view kClasses[] = {"GPT2Tokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer"};
  if (!config.tokenizer_class || !tokenizer.is_object() || !tokenizer.contains("pre_tokenizer")) return;
  if (std::ranges::find(kClasses, *config.tokenizer_class) == std::end(kClasses)) return;
  set_prefix_space(tokenizer["pre_tokenizer"], config.add_prefix_space.value_or(false));
}

}  // namespace

std::unique_ptr<Tokenizer> open_tokenizer_json(const std::filesystem::path& file) {
  const std::string text = file_bytes(file);
  Sha256 hash;
  hash.update(text);
  nlohmann::json json = parse_json(text, file.string());
  const TokenizerConfig config = read_tokenizer_config(file.parent_path(), hash);
  follow_class(config, json);
  const JsonField root(json, file.string());
  return make_tokenizer(root, config, std::move(hash));
}

std::unique_ptr<Tokenizer> make_tokenizer(const JsonField& root, const TokenizerConfig& config, Sha256 hash,
                                          bool frame_of_config) {
  TokenizerParts parts;
  if (const auto field = root.find("normalizer")) parts.normalizer = make_normalizer(*field);
  if (const auto field = root.find("pre_tokenizer")) parts.pre_tokenizer = make_pre_tokenizer(*field);
  parts.model = make_model(root.at("model"));
  if (const auto field = root.find("decoder")) parts.decoder = make_decoder(*field);
  parts.added = AddedTokens(added_tokens(root, config), parts.model->vocabulary(), parts.normalizer.get());

  const auto id_of = [&](std::string_view token) {
    const auto id = parts.added.find(token);
    return id ? id : parts.model->vocabulary().find(token);
  };
  const std::int64_t id_end = std::max(parts.model->vocabulary().id_end(), parts.added.id_end());
  // As in transformers, add_bos_token and add_eos_token of tokenizer_config.json do not touch this file's own
  // rule.
  if (const auto field = root.find("post_processor")) parts.frame = make_special_frame(*field, id_end);
  parts.bos = special_id(config.bos_token, config.bos_id, id_of, id_end);
  parts.eos = special_id(config.eos_token, config.eos_id, id_of, id_end);
  if (frame_of_config) {
    if (config.add_bos_token.value_or(false) && parts.bos) parts.frame.before = {*parts.bos};
    if (config.add_eos_token.value_or(false) && parts.eos) parts.frame.after = {*parts.eos};
  }
  if (!parts.bos && !parts.frame.before.empty()) parts.bos = parts.frame.before.front();
  if (!parts.eos && !parts.frame.after.empty()) parts.eos = parts.frame.after.back();
  parts.fingerprint = "sha256:" + hash.hex_digest();
  return std::make_unique<PipelineTokenizer>(std::move(parts));
}

}  // namespace swiftprune::text
