#include "swiftprune/checkpoint/gguf_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/gguf_pre_tokenizers.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kSpace = "\xe2\x96\x81";  // U+2581, SentencePiece's space
constexpr const char* kTokensKey = "tokenizer.ggml.tokens";

// tokenizer.ggml.token_type
enum class TokenType { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct Vocabulary {
  std::vector<std::string> tokens;  // by id, as tokenizer.json spells them
  std::vector<TokenType> types;
  SpecialTokens special;
};

// ---- SentencePiece BPE

std::string replace_spaces(std::string_view text) {
  std::string replaced;
  for (const char c : text) c == ' ' ? replaced += kSpace : replaced += c;
  return replaced;
}

bool is_only_spaces(std::string_view token) {
  return !token.empty() && token.find_first_not_of(' ') == std::string_view::npos;
}

std::int64_t num_code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

// SentencePiece merges the pair whose union has the best score; tokenizer.json lists pairs, best first. Ties
// are broken as transformers does: longer halves first, then the order of the vocabulary.
std::vector<std::string> merges_from_scores(const Vocabulary& vocabulary, const std::vector<double>& scores) {
  struct Merge {
    double score;
    std::int64_t left_length, right_length;
    std::string_view left, right;
  };
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) ids.emplace(vocabulary.tokens[id], id);
  std::vector<Merge> merges;
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const TokenType type = vocabulary.types[id];
    if (type != TokenType::kNormal && type != TokenType::kUserDefined) continue;
    const std::string_view token = vocabulary.tokens[id];
    if (token.find(' ') != std::string_view::npos) continue;
    // llama.cpp's converter overwrites the score of an added token; SentencePiece's own is 0.
    const double score = type == TokenType::kUserDefined ? 0.0 : scores[id];
    std::vector<std::tuple<std::size_t, std::size_t, Merge>> splits;
    for (std::size_t at = 1; at < token.size(); ++at) {
      if ((token[at] & 0xc0) == 0x80) continue;  // inside a code point
      const auto left = ids.find(token.substr(0, at)), right = ids.find(token.substr(at));
      if (left == ids.end() || right == ids.end()) continue;
      splits.emplace_back(left->second, right->second,
                          Merge{score, num_code_points(left->first), num_code_points(right->first),
                                left->first, right->first});
    }
    std::stable_sort(splits.begin(), splits.end(), [](const auto& a, const auto& b) {
      return std::tie(std::get<0>(a), std::get<1>(a)) < std::tie(std::get<0>(b), std::get<1>(b));
    });
    for (const auto& split : splits) merges.push_back(std::get<2>(split));
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    return std::tie(a.score, a.left_length, a.right_length) >
           std::tie(b.score, b.left_length, b.right_length);
  });
  std::vector<std::string> lines;
  lines.reserve(merges.size());
  for (const Merge& merge : merges) lines.push_back(fmt::format("{} {}", merge.left, merge.right));
  return lines;
}

Json sentencepiece_normalizer(bool add_prefix) {
  const Json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpace}};
  if (!add_prefix) return replace;
  return {{"type", "Sequence"},
          {"normalizers", Json::array({Json{{"type", "Prepend"}, {"prepend", kSpace}}, replace})}};
}

Json sentencepiece_decoder(bool add_prefix) {
  Json decoders = Json::array({Json{{"type", "Replace"}, {"pattern", {{"String", kSpace}}}, {"content", " "}},
                               Json{{"type", "ByteFallback"}}, Json{{"type", "Fuse"}}});
  if (add_prefix) {
    decoders.push_back(Json{{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"type", "Sequence"}, {"decoders", decoders}};
}

// ---- both kinds

void check_utf8(const GgufFile& file, std::string_view token, std::size_t id) {
  try {
    (void)nlohmann::json(token).dump();
  } catch (const nlohmann::json::exception&) {
    bad_input("{}: {}: token {} is not valid UTF-8", file.name(), kTokensKey, id);
  }
}

Vocabulary read_vocabulary(const GgufFile& file, std::int64_t num_embeddings, bool is_sentencepiece) {
  const auto tokens = file.texts(kTokensKey);
  if (!tokens) bad_input("{}: {} is missing", file.name(), kTokensKey);
  if (static_cast<std::int64_t>(tokens->size()) > num_embeddings) {
    bad_input("{}: {}: found {} tokens, expected at most the {} rows of token_embd.weight", file.name(),
              kTokensKey, tokens->size(), num_embeddings);
  }
  Vocabulary vocabulary;
  vocabulary.special = gguf_special_tokens(file, static_cast<std::int64_t>(tokens->size()));
  vocabulary.types.assign(tokens->size(), TokenType::kNormal);
  if (const auto types = file.numbers("tokenizer.ggml.token_type")) {
    if (types->size() != tokens->size()) {
      bad_input("{}: tokenizer.ggml.token_type: found {} values, expected {}", file.name(), types->size(),
                tokens->size());
    }
    for (std::size_t id = 0; id < types->size(); ++id) {
      if (!((*types)[id] >= 0 && (*types)[id] <= 6)) {
        bad_input("{}: tokenizer.ggml.token_type: found {} for token {}, expected 0 to 6", file.name(),
                  (*types)[id], id);
      }
      // 0, undefined: a token like others, as llama.cpp takes it.
      const int type = std::max(static_cast<int>((*types)[id]), static_cast<int>(TokenType::kNormal));
      vocabulary.types[id] = static_cast<TokenType>(type);
    }
  }
  const SpecialTokens& special = vocabulary.special;
  for (const auto& id : {special.bos, special.eos, special.end_of_turn, special.unknown, special.padding}) {
    TokenType* type = id ? &vocabulary.types[static_cast<std::size_t>(*id)] : nullptr;
    if (type != nullptr && *type == TokenType::kNormal) *type = TokenType::kControl;
  }
  vocabulary.tokens.reserve(tokens->size());
  for (std::size_t id = 0; id < tokens->size(); ++id) {
    const std::string_view token = (*tokens)[id];
    check_utf8(file, token, id);
    // llama.cpp's converter writes SentencePiece's own runs of spaces as plain spaces.
    const bool respell = is_sentencepiece && is_only_spaces(token);
    vocabulary.tokens.push_back(respell ? replace_spaces(token) : std::string(token));
  }
  return vocabulary;
}

bool is_added(TokenType type) {
  return type == TokenType::kControl || type == TokenType::kUserDefined || type == TokenType::kUnknown;
}

Json added_tokens(const Vocabulary& vocabulary) {
  Json added = Json::array();
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const TokenType type = vocabulary.types[id];
    const std::string& token = vocabulary.tokens[id];
    // Runs of spaces are found after normalization, by their merges.
    if (!is_added(type) || token.empty() || token.starts_with(std::string(kSpace) + std::string(kSpace)))
      continue;
    added.push_back({{"id", id},
                     {"content", token},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type != TokenType::kUserDefined}});
  }
  return added;
}

// What is put around one text (A) and around two (A, B).
Json template_processor(const Vocabulary& vocabulary, bool add_bos, bool add_eos) {
  Json special = Json::object();
  const auto piece = [&](std::int64_t id, int type) {
    const std::string& token = vocabulary.tokens[static_cast<std::size_t>(id)];
    special[token] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
    return Json{{"SpecialToken", {{"id", token}, {"type_id", type}}}};
  };
  const auto text = [&](const char* name, int type) {
    Json sequence = Json::array();
    if (add_bos) sequence.push_back(piece(*vocabulary.special.bos, type));
    sequence.push_back({{"Sequence", {{"id", name}, {"type_id", type}}}});
    if (add_eos) sequence.push_back(piece(*vocabulary.special.eos, type));
    return sequence;
  };
  const Json single = text("A", 0);
  Json pair = single;
  for (const Json& part : text("B", 1)) pair.push_back(part);
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
}

// "[PAD123]": what llama.cpp's converter writes for rows of the embedding without a token.
bool is_filler(const Vocabulary& vocabulary, std::size_t id) {
  return vocabulary.types[id] == TokenType::kUnused && vocabulary.tokens[id] == fmt::format("[PAD{}]", id);
}

// model: all of the BPE model but vocab and merges, which are too many for a JSON tree.
std::string tokenizer_json(const Json& head, const Json& model, const Vocabulary& vocabulary,
                           const std::vector<std::string>& merges) {
  std::string text = head.dump(2);
  text.erase(text.rfind("\n}"));
  std::string model_text = model.dump(2);
  model_text.erase(model_text.rfind("\n}"));
  text += ",\n\"model\": " + model_text + ",\n\"vocab\": {";
  std::unordered_map<std::string_view, std::size_t> seen;
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& token = vocabulary.tokens[id];
    if (is_filler(vocabulary, id) || !seen.emplace(token, id).second) continue;
    text += fmt::format("{}\n{}: {}", seen.size() > 1 ? "," : "", json_quoted(token), id);
  }
  text += "},\n\"merges\": [";
  for (std::size_t i = 0; i < merges.size(); ++i) text += (i > 0 ? ",\n" : "\n") + json_quoted(merges[i]);
  text += "]\n}\n}\n";
  return text;
}

Json special_tokens_map(const Vocabulary& vocabulary) {
  Json map = Json::object();
  const std::pair<const char*, std::optional<std::int64_t>> entries[] = {
      {"bos_token", vocabulary.special.bos},
      {"eos_token", vocabulary.special.eos},
      {"unk_token", vocabulary.special.unknown},
      {"pad_token", vocabulary.special.padding}};
  for (const auto& [name, id] : entries) {
    if (id) map[name] = vocabulary.tokens[static_cast<std::size_t>(*id)];
  }
  return map;
}

struct Model {
  Json json;  // all of tokenizer.json's model but vocab and merges
  Json normalizer, pre_tokenizer, decoder;
  std::vector<std::string> merges;
  bool add_bos = false;  // where the file does not say
};

std::vector<std::string> merges_of(const GgufFile& file) {
  const auto merges = file.texts("tokenizer.ggml.merges");
  if (!merges) bad_input("{}: tokenizer.ggml.merges is missing", file.name());
  return {merges->begin(), merges->end()};
}

Model byte_level_model(const GgufFile& file, std::string_view default_pre_tokenizer,
                       std::vector<std::string>& notes) {
  std::string_view name = file.text("tokenizer.ggml.pre").value_or("default");
  if (name == "default") {
    if (default_pre_tokenizer.empty()) default_pre_tokenizer = "gpt-2";
    notes.push_back(
        fmt::format("the file does not name its pre-tokenizer (tokenizer.ggml.pre); {} is assumed",
                    default_pre_tokenizer));
    name = default_pre_tokenizer;
  }
  const PreTokenizer& pre = pre_tokenizer_named(name, file.name());
  Model model;
  model.add_bos = pre.add_bos;
  model.merges = merges_of(file);
  model.normalizer = pre.normalize ? Json{{"type", "NFC"}} : Json();
  model.pre_tokenizer = pre_tokenizer_json(pre);
  model.decoder = byte_level(true);
  model.json = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", nullptr},
                {"end_of_word_suffix", nullptr},
                {"fuse_unk", false},
                {"byte_fallback", false},
                {"ignore_merges", pre.ignore_merges}};
  return model;
}

std::vector<std::string> merges_by_scores(const GgufFile& file, const Vocabulary& vocabulary) {
  const auto scores = file.numbers("tokenizer.ggml.scores");
  if (!scores || scores->size() != vocabulary.tokens.size()) {
    bad_input("{}: tokenizer.ggml.scores: found {} values, expected {}", file.name(),
              scores ? scores->size() : 0, vocabulary.tokens.size());
  }
  if (std::any_of(scores->begin(), scores->end(), [](double score) { return std::isnan(score); })) {
    bad_input("{}: tokenizer.ggml.scores: found NaN", file.name());
  }
  return merges_from_scores(vocabulary, *scores);
}

// Gemma 4's is the same with merges of its own, and never a space in front.
Model sentencepiece_model(const GgufFile& file, const Vocabulary& vocabulary, bool has_merges) {
  const bool add_prefix = !has_merges && file.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  const auto unknown = static_cast<std::size_t>(vocabulary.special.unknown.value_or(0));
  const bool has_bytes =
      std::count(vocabulary.types.begin(), vocabulary.types.end(), TokenType::kByte) == 256;
  Model model;
  model.add_bos = true;
  model.merges = has_merges ? merges_of(file) : merges_by_scores(file, vocabulary);
  model.normalizer = sentencepiece_normalizer(add_prefix);
  model.decoder = sentencepiece_decoder(add_prefix);
  model.json = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", vocabulary.tokens.at(unknown)},
                {"continuing_subword_prefix", nullptr},
                {"end_of_word_suffix", nullptr},
                {"fuse_unk", true},
                {"byte_fallback", has_bytes},
                {"ignore_merges", false}};
  return model;
}

}  // namespace

SpecialTokens gguf_special_tokens(const GgufFile& file, std::int64_t num_embeddings) {
  const auto read = [&](const char* name) {
    const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
    const auto id = file.integer(key);
    if (id && (*id < 0 || *id >= num_embeddings)) {
      bad_input("{}: {}: found {}, expected 0 to {}", file.name(), key, *id, num_embeddings - 1);
    }
    return id;
  };
  return {read("bos"), read("eos"), read("eot"), read("unknown"), read("padding")};
}

TokenizerFiles make_tokenizer_files(const GgufFile& file, std::int64_t num_embeddings,
                                    std::string_view default_pre_tokenizer) {
  const std::string_view kind = file.text("tokenizer.ggml.model").value_or("");
  if (kind != "gpt2" && kind != "llama" && kind != "gemma4") {
    bad_input(
        "{}: tokenizer.ggml.model: found {}, expected gpt2, llama or gemma4; give the model's own tokenizer "
        "files "
        "with --tokenizer FOLDER",
        file.name(), json_quoted(kind));
  }
  const bool is_sentencepiece = kind != "gpt2";
  TokenizerFiles files;
  const Vocabulary vocabulary = read_vocabulary(file, num_embeddings, is_sentencepiece);
  if (vocabulary.tokens.empty()) bad_input("{}: {}: found no tokens", file.name(), kTokensKey);
  const Model model = is_sentencepiece ? sentencepiece_model(file, vocabulary, kind == "gemma4")
                                       : byte_level_model(file, default_pre_tokenizer, files.notes);

  const bool add_bos = file.boolean("tokenizer.ggml.add_bos_token").value_or(model.add_bos) &&
                       vocabulary.special.bos.has_value();
  const bool add_eos =
      file.boolean("tokenizer.ggml.add_eos_token").value_or(false) && vocabulary.special.eos.has_value();
  Json head = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  head["added_tokens"] = added_tokens(vocabulary);
  head["normalizer"] = model.normalizer;
  head["pre_tokenizer"] = model.pre_tokenizer;
  head["post_processor"] = add_bos || add_eos ? template_processor(vocabulary, add_bos, add_eos)
                           : is_sentencepiece ? Json()
                                              : byte_level(true);
  head["decoder"] = model.decoder;
  files.tokenizer = tokenizer_json(head, model.json, vocabulary, model.merges);

  const Json map = special_tokens_map(vocabulary);
  files.special_tokens_map = map.dump(2) + "\n";
  Json config = map;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  config["clean_up_tokenization_spaces"] = false;
  if (const auto chat = file.text("tokenizer.chat_template")) config["chat_template"] = *chat;
  files.tokenizer_config = config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  return files;
}

}  // namespace swiftprune
