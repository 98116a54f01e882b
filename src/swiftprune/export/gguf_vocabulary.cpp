#include "swiftprune/export/gguf_vocabulary.h"

#include <fstream>
#include <iterator>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "swiftprune/checkpoint/gguf_pre_tokenizers.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::json;

constexpr std::string_view kSpace = "\xe2\x96\x81";  // U+2581, SentencePiece's space
constexpr const char* kTokenizerFile = "tokenizer.json";

// tokenizer.ggml.token_type
enum TokenType : std::int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

// Scores of what has none, as llama.cpp's converter writes them.
constexpr float kUserDefinedScore = -1000.0f;
constexpr float kUnusedScore = -10000.0f;

struct Files {
  Json tokenizer;   // tokenizer.json
  Json config;      // tokenizer_config.json, or an empty object
  Json map;         // special_tokens_map.json
  Json generation;  // generation_config.json
};

Json read_object(const fs::path& path) {
  std::error_code ignored;
  Json json = fs::exists(path, ignored) ? read_json_file(path) : Json::object();
  if (!json.is_object()) bad_input("{}: expected a JSON object", path.filename().string());
  return json;
}

Files read_files(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::exists(folder / kTokenizerFile, ignored)) {
    bad_input(
        "{}: found no tokenizer.json, expected one; transformers makes it of a tokenizer.model: "
        "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        folder.string());
  }
  return {read_object(folder / kTokenizerFile), read_object(folder / "tokenizer_config.json"),
          read_object(folder / "special_tokens_map.json"), read_object(folder / "generation_config.json")};
}

struct Vocabulary {
  std::vector<std::string> tokens;  // by id
  std::vector<std::int32_t> types;
  std::unordered_map<std::string, std::int64_t> ids;
};

Vocabulary read_vocabulary(const Json& tokenizer, std::int64_t num_embeddings) {
  Vocabulary vocabulary;
  vocabulary.tokens.resize(static_cast<std::size_t>(num_embeddings));
  vocabulary.types.assign(vocabulary.tokens.size(), kUnused);
  const auto add = [&](const std::string& token, std::int64_t id, std::int32_t type) {
    if (id < 0 || id >= num_embeddings) {
      bad_input("{}: token {}: found id {}, expected less than the {} rows of the embedding", kTokenizerFile,
                json_quoted(token), id, num_embeddings);
    }
    vocabulary.tokens[static_cast<std::size_t>(id)] = token;
    vocabulary.types[static_cast<std::size_t>(id)] = type;
    vocabulary.ids[token] = id;
  };
  for (const auto& [token, id] : tokenizer.at("model").at("vocab").items()) {
    add(token, id.get<std::int64_t>(), kNormal);
  }
  for (const Json& added : tokenizer.value("added_tokens", Json::array())) {
    add(added.at("content").get<std::string>(), added.at("id").get<std::int64_t>(),
        added.value("special", false) ? kControl : kUserDefined);
  }
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (vocabulary.types[id] == kUnused) vocabulary.tokens[id] = fmt::format("[PAD{}]", id);
  }
  return vocabulary;
}

// Both halves of a merge: "a b", or ["a", "b"] in newer files.
std::pair<std::string, std::string> read_merge(const Json& merge) {
  if (merge.is_array()) return {merge.at(0).get<std::string>(), merge.at(1).get<std::string>()};
  const std::string& text = merge.get_ref<const std::string&>();
  const auto space = text.find(' ');
  if (space == std::string::npos) {
    bad_input("{}: model.merges: found {}, expected two tokens", kTokenizerFile, json_quoted(text));
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

// A member that is a token: a string, or an object with its text.
std::optional<std::string> token_text(const Json& object, const std::string& key) {
  const auto found = object.find(key);
  if (found == object.end()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content")) return found->at("content").get<std::string>();
  return std::nullopt;
}

// kind: "bos", "eos", "unk", "pad".
std::optional<std::int64_t> special_id(const Files& files, const Json& config, const Vocabulary& vocabulary,
                                       const std::string& kind) {
  for (const Json* object : {&files.config, &files.map}) {
    const auto text = token_text(*object, kind + "_token");
    if (!text) continue;
    if (const auto id = vocabulary.ids.find(*text); id != vocabulary.ids.end()) return id->second;
  }
  const auto id = config.find(kind + "_token_id");
  if (id == config.end() || id->is_null()) return std::nullopt;
  const Json& first = id->is_array() && !id->empty() ? (*id)[0] : *id;
  if (!first.is_number_integer() || first.get<std::int64_t>() < 0 ||
      first.get<std::int64_t>() >= static_cast<std::int64_t>(vocabulary.tokens.size())) {
    bad_input("config.json: field '{}_token_id': found {}, expected a token's id", kind, first.dump());
  }
  return first.get<std::int64_t>();
}

// A chat model stops at either: the second of generation_config.json's ids.
std::optional<std::int64_t> end_of_turn(const Files& files, std::optional<std::int64_t> eos,
                                        std::int64_t num_tokens) {
  const Json ids = files.generation.value("eos_token_id", Json());
  if (!ids.is_array()) return std::nullopt;
  for (const Json& id : ids) {
    const bool valid = id.is_number_integer() && id.get<std::int64_t>() >= 0 && id < num_tokens;
    if (valid && (!eos || id != *eos)) return id.get<std::int64_t>();
  }
  return std::nullopt;
}

struct AddedAround {
  bool bos = false;
  bool eos = false;
};

// What the post-processor puts around a text.
AddedAround added_around(const Files& files, const Vocabulary& vocabulary, std::optional<std::int64_t> bos,
                         std::optional<std::int64_t> eos) {
  AddedAround added{files.config.value("add_bos_token", false), files.config.value("add_eos_token", false)};
  const Json post = files.tokenizer.value("post_processor", Json());
  if (!post.is_object()) return added;
  const Json processors = post.value("processors", Json::array({post}));
  for (const Json& processor : processors) {
    const Json single = processor.value("single", Json());
    if (processor.value("type", "") != "TemplateProcessing" || !single.is_array() || single.empty()) continue;
    const auto is = [&](const Json& piece, std::optional<std::int64_t> wanted) {
      if (!wanted || !piece.contains("SpecialToken")) return false;
      const auto id = vocabulary.ids.find(piece.at("SpecialToken").at("id").get<std::string>());
      return id != vocabulary.ids.end() && id->second == *wanted;
    };
    added = {is(single.front(), bos), is(single.back(), eos)};
  }
  return added;
}

std::optional<std::string> chat_template(const fs::path& folder, const Json& config) {
  const Json found = config.value("chat_template", Json());
  if (found.is_string()) return found.get<std::string>();
  if (found.is_array()) {
    for (const Json& item : found) {
      if (item.value("name", "") == "default") return item.at("template").get<std::string>();
    }
  }
  std::ifstream file(folder / "chat_template.jinja", std::ios::binary);
  if (!file) return std::nullopt;
  return std::string{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// ---- SentencePiece-like BPE

// All steps of a normalizer or pre-tokenizer, sequences opened up.
std::vector<Json> steps_of(const Json& component, const char* list) {
  if (!component.is_object()) return {};
  if (component.value("type", "") != "Sequence") return {component};
  std::vector<Json> steps;
  for (const Json& step : component.at(list)) steps.push_back(step);
  return steps;
}

struct SpaceRule {
  bool is_sentencepiece = false;  // spaces become U+2581
  bool add_prefix = false;        // a text starts with one
};

SpaceRule space_rule(const Json& tokenizer) {
  SpaceRule rule;
  rule.is_sentencepiece = tokenizer.at("model").value("byte_fallback", false);
  for (const Json& step : steps_of(tokenizer.value("normalizer", Json()), "normalizers")) {
    const std::string type = step.value("type", "");
    rule.add_prefix |= type == "Prepend" && step.value("prepend", "") == kSpace;
    rule.is_sentencepiece |= type == "Replace" && step.value("content", "") == kSpace;
  }
  for (const Json& step : steps_of(tokenizer.value("pre_tokenizer", Json()), "pretokenizers")) {
    if (step.value("type", "") != "Metaspace") continue;
    rule.is_sentencepiece = true;
    rule.add_prefix |= step.contains("prepend_scheme") ? step.at("prepend_scheme") != "never"
                                                       : step.value("add_prefix_space", true);
  }
  return rule;
}

bool is_byte_token(std::string_view token) {
  return token.size() == 6 && token.starts_with("<0x") && token.back() == '>';
}

// llama.cpp joins the pair whose union has the best score; tokenizer.json lists pairs, best first. So the
// score of a token is minus the rank of its first merge; tokens that no merge makes come last.
std::vector<float> scores_from_merges(const Json& merges, const Vocabulary& vocabulary) {
  std::vector<float> scores(vocabulary.tokens.size(), 0.0f);
  std::vector<bool> ranked(scores.size(), false);
  std::int64_t rank = 0;
  for (const Json& merge : merges) {
    const auto [left, right] = read_merge(merge);
    const auto id = vocabulary.ids.find(left + right);
    if (id == vocabulary.ids.end() || ranked[static_cast<std::size_t>(id->second)]) continue;
    ranked[static_cast<std::size_t>(id->second)] = true;
    scores[static_cast<std::size_t>(id->second)] = -static_cast<float>(rank++);
  }
  for (std::size_t id = 0; id < scores.size(); ++id) {
    const std::int32_t type = vocabulary.types[id];
    if (type == kNormal && !ranked[id]) scores[id] = -static_cast<float>(rank++);
    if (type == kUserDefined) scores[id] = kUserDefinedScore;
    if (type == kUnused) scores[id] = kUnusedScore;
  }
  return scores;
}

void add_sentencepiece(const Json& model, const SpaceRule& rule, Vocabulary& vocabulary,
                       GgufMetadata& metadata) {
  const std::string unknown = token_text(model, "unk_token").value_or("");
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (vocabulary.types[id] == kNormal && is_byte_token(vocabulary.tokens[id])) vocabulary.types[id] = kByte;
    if (!unknown.empty() && vocabulary.tokens[id] == unknown) vocabulary.types[id] = kUnknown;
  }
  const std::vector<float> scores = scores_from_merges(model.at("merges"), vocabulary);
  // The converter writes the spaces of added tokens as spaces.
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    std::string& token = vocabulary.tokens[id];
    if (vocabulary.types[id] != kUserDefined) continue;
    for (auto at = token.find(kSpace); at != std::string::npos; at = token.find(kSpace, at)) {
      token.replace(at, kSpace.size(), " ");
    }
  }
  metadata.text("tokenizer.ggml.model", "llama");
  metadata.text("tokenizer.ggml.pre", "default");
  metadata.texts("tokenizer.ggml.tokens", vocabulary.tokens);
  metadata.f32s("tokenizer.ggml.scores", scores);
  metadata.i32s("tokenizer.ggml.token_type", vocabulary.types);
  metadata.boolean("tokenizer.ggml.add_space_prefix", rule.add_prefix);
}

// ---- byte-level BPE

void add_byte_level(const Json& tokenizer, const Vocabulary& vocabulary, GgufMetadata& metadata) {
  const PreTokenizer& pre = pre_tokenizer_like(tokenizer, kTokenizerFile);
  std::vector<std::string> merges;
  for (const Json& merge : tokenizer.at("model").at("merges")) {
    const auto [left, right] = read_merge(merge);
    merges.push_back(left + " " + right);
  }
  metadata.text("tokenizer.ggml.model", "gpt2");
  metadata.text("tokenizer.ggml.pre", pre.name());
  metadata.texts("tokenizer.ggml.tokens", vocabulary.tokens);
  metadata.i32s("tokenizer.ggml.token_type", vocabulary.types);
  metadata.texts("tokenizer.ggml.merges", merges);
}

void add_vocabulary(const fs::path& folder, const Files& files, const Json& config,
                    std::int64_t num_embeddings, GgufMetadata& metadata) {
  const Json& model = files.tokenizer.at("model");
  if (const std::string type = model.value("type", "BPE"); type != "BPE") {
    bad_input("{}: model.type: found {}, expected BPE", kTokenizerFile, json_quoted(type));
  }
  Vocabulary vocabulary = read_vocabulary(files.tokenizer, num_embeddings);
  const auto id_of = [&](const char* kind) { return special_id(files, config, vocabulary, kind); };
  const auto bos = id_of("bos"), eos = id_of("eos"), unknown = id_of("unk"), padding = id_of("pad");
  const AddedAround added = added_around(files, vocabulary, bos, eos);
  if (const SpaceRule rule = space_rule(files.tokenizer); rule.is_sentencepiece) {
    add_sentencepiece(model, rule, vocabulary, metadata);
  } else {
    add_byte_level(files.tokenizer, vocabulary, metadata);
  }
  const std::pair<const char*, std::optional<std::int64_t>> ids[] = {
      {"bos", bos},
      {"eos", eos},
      {"eot", end_of_turn(files, eos, num_embeddings)},
      {"unknown", unknown},
      {"padding", padding}};
  for (const auto& [name, id] : ids) {
    if (id) metadata.u32(fmt::format("tokenizer.ggml.{}_token_id", name), *id);
  }
  metadata.boolean("tokenizer.ggml.add_bos_token", added.bos);
  metadata.boolean("tokenizer.ggml.add_eos_token", added.eos);
  if (const auto text = chat_template(folder, files.config)) {
    metadata.text("tokenizer.chat_template", *text);
  }
}

}  // namespace

void add_gguf_vocabulary(const fs::path& folder, const Json& config, std::int64_t num_embeddings,
                         GgufMetadata& metadata) {
  const Files files = read_files(folder);
  try {
    add_vocabulary(folder, files, config, num_embeddings, metadata);
  } catch (const Json::exception& error) {
    bad_input("{}: {}", kTokenizerFile, json_error_text(error));
  }
}

}  // namespace swiftprune
