#include "swiftprune/text/vocab_and_merges.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/core/read_file.h"
#include "swiftprune/text/tokenizer_config.h"
#include "swiftprune/text/tokenizer_json.h"

namespace swiftprune::text {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char *kVocabFile = "vocab.json", *kMergesFile = "merges.txt";
constexpr std::string_view kEndOfText = "<|endoftext|>";

// transformers' tokenizer classes (models/*/tokenization_*.py): what their constructors say.
constexpr NamedToken kGpt2Tokens[] = {
    {"unk_token", kEndOfText}, {"bos_token", kEndOfText}, {"eos_token", kEndOfText}};
constexpr NamedToken kGptNeoxTokens[] = {{"unk_token", kEndOfText},
                                         {"bos_token", kEndOfText},
                                         {"eos_token", kEndOfText},
                                         {"pad_token", "<|padding|>"}};
constexpr NamedToken kQwen2Tokens[] = {
    {"unk_token", kEndOfText}, {"eos_token", kEndOfText}, {"pad_token", kEndOfText}};
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct TokenizerClass {
  std::string_view name;
  std::string_view model_types;  // of config.json, separated by spaces: for folders that name no class
  std::span<const NamedToken> tokens;
  bool nfc = false;
  std::string_view pattern = {};  // empty: GPT-2's own
};
constexpr TokenizerClass kClasses[] = {
    {"GPT2Tokenizer", "opt gpt2", kGpt2Tokens},
    {"GPTNeoXTokenizer", "gpt_neox", kGptNeoxTokens, true},
    {"Qwen2Tokenizer", "qwen2 qwen3", kQwen2Tokens, true, kQwen2Pattern},
};

const TokenizerClass& class_of(const fs::path& folder, const TokenizerConfig& config) {
  std::string type;
  std::optional<std::string> name = config.tokenizer_class;
  if (const fs::path file = folder / "config.json"; fs::is_regular_file(file)) {
    const Json json = read_json_file(file);
    const JsonField field(json, file.string());
    if (json.is_object()) {
      type = field.string_if("model_type").value_or("");
      if (!name) name = field.string_if("tokenizer_class");
    }
  }
  std::vector<std::string_view> known;
  for (const TokenizerClass& candidate : kClasses) {
    const std::string words = fmt::format(" {} ", candidate.model_types), word = fmt::format(" {} ", type);
    if (name ? *name == candidate.name : !type.empty() && words.find(word) != std::string::npos)
      return candidate;
    known.push_back(candidate.name);
  }
  bad_input(
      "{}: found {} and {} for the tokenizer class {}, expected one of {}; save its tokenizer.json: "
      "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
      folder.string(), kVocabFile, kMergesFile,
      name ? json_quoted(*name) : fmt::format("of the model type {}", json_quoted(type)),
      fmt::join(known, ", "));
}

// A line a merge, best first, after a line that names the version.
Json read_merges(const fs::path& file, const std::string& bytes) {
  Json merges = Json::array();
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t end = std::min(bytes.find('\n', begin), bytes.size());
    std::string_view line = std::string_view(bytes).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.starts_with("#version") || (line.empty() && begin >= bytes.size())) continue;
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
      bad_input("{}: line {}: found {}, expected two pieces with a space between them", file.string(), number,
                json_quoted(line.substr(0, 60)));
    }
    merges.push_back(Json::array({line.substr(0, space), line.substr(space + 1)}));
  }
  return merges;
}

Json byte_level(bool add_prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

// What tokenizer.json would say of the class.
Json pipeline_of(const TokenizerClass& kind, bool add_prefix_space, Json vocab, Json merges) {
  Json json;
  if (kind.nfc) json["normalizer"] = {{"type", "NFC"}};
  json["pre_tokenizer"] = byte_level(add_prefix_space, kind.pattern.empty());
  if (!kind.pattern.empty()) {
    const Json split = {{"type", "Split"},
                        {"pattern", {{"Regex", kind.pattern}}},
                        {"behavior", "Isolated"},
                        {"invert", false}};
    json["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers", Json::array({split, std::move(json["pre_tokenizer"])})}};
  }
  json["decoder"] = byte_level(true, true);
  json["model"] = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", nullptr},
                   {"continuing_subword_prefix", ""},
                   {"end_of_word_suffix", ""},
                   {"fuse_unk", false},
                   {"byte_fallback", false},
                   {"ignore_merges", false},
                   {"vocab", std::move(vocab)},
                   {"merges", std::move(merges)}};
  return json;
}

}  // namespace

bool has_vocab_and_merges(const fs::path& folder) {
  return fs::is_regular_file(folder / kVocabFile) && fs::is_regular_file(folder / kMergesFile);
}

std::unique_ptr<Tokenizer> open_vocab_and_merges(const fs::path& folder) {
  const std::string vocab = file_bytes(folder / kVocabFile), merges = file_bytes(folder / kMergesFile);
  Sha256 hash;
  hash.update(vocab);
  hash.update(merges);
  Sha256 unused;
  const TokenizerClass& kind = class_of(folder, read_tokenizer_config(folder, unused));
  const TokenizerConfig config = read_tokenizer_config(folder, hash, kind.tokens);
  const std::string file = (folder / kVocabFile).string();
  const Json json = pipeline_of(kind, config.add_prefix_space.value_or(false), parse_json(vocab, file),
                                read_merges(folder / kMergesFile, merges));
  return make_tokenizer(JsonField(json, file), config, std::move(hash), true);
}

}  // namespace swiftprune::text
