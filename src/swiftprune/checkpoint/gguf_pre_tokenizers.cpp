#include "swiftprune/checkpoint/gguf_pre_tokenizers.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen35Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kBloomPattern = R"( ?[^(\s|[.,!?…。，、।۔،])]+)";
constexpr std::string_view kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4oPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// Several cuts one after the other, with kThen between.
constexpr char kThen = '\x1f';
constexpr std::string_view kDeepSeek3Pattern =
    "\\p{N}{1,3}"
    "\x1f"
    "[一-龥぀-ゟ゠-ヿ]+"
    "\x1f"
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

using Kind = PreTokenizer::Kind;
constexpr PreTokenizer kPreTokenizers[] = {
    {"gpt-2 phi-2 exaone4 trillion", Kind::kByteLevel, ""},
    {"olmo mpt", Kind::kByteLevel, "", true},  // the GPT-NeoX tokenizer (Pythia) goes by these names
    {"smollm starcoder refact exaone codeshell minerva-7b", Kind::kDigitsThenByteLevel, ""},
    {"command-r", Kind::kDigitsThenByteLevel, "", true},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2", Kind::kSplitThenByteLevel,
     kLlama3Pattern, false, true, true},
    {"dbrx smaug-bpe glm4 chatglm-bpe", Kind::kSplitThenByteLevel, kLlama3Pattern},
    {"qwen2 deepseek-r1-qwen megrez stablelm2", Kind::kSplitThenByteLevel, kQwen2Pattern, true},
    {"bloom poro-chat gpt3-finnish", Kind::kSplitThenByteLevel, kBloomPattern},
    {"qwen35", Kind::kSplitThenByteLevel, kQwen35Pattern, true},
    {"tekken", Kind::kSplitThenByteLevel, kTekkenPattern, false, true, true},
    {"gpt-4o llama4", Kind::kSplitThenByteLevel, kGpt4oPattern},
    {"deepseek-v3 hunyuan-dense", Kind::kSplitThenByteLevel, kDeepSeek3Pattern},
};

// What decides how text is cut, whatever else a tokenizer.json says.
struct Cut {
  Kind kind = Kind::kByteLevel;
  std::string pattern;
};

bool is_byte_level(const nlohmann::json& step, bool use_regex) {
  return step.value("type", "") == "ByteLevel" && !step.value("add_prefix_space", true) &&
         step.value("use_regex", true) == use_regex;
}

std::optional<Cut> read_cut(const nlohmann::json& pre) {
  if (!pre.is_object()) return std::nullopt;
  if (is_byte_level(pre, true)) return Cut{Kind::kByteLevel, ""};
  const auto steps = pre.find("pretokenizers");
  if (pre.value("type", "") != "Sequence" || steps == pre.end() || !steps->is_array() || steps->size() < 2 ||
      !std::all_of(steps->begin(), steps->end(),
                   [](const nlohmann::json& step) { return step.is_object(); })) {
    return std::nullopt;
  }
  const nlohmann::json& first = steps->front();
  if (steps->size() == 2 && first.value("type", "") == "Digits" && first.value("individual_digits", false) &&
      is_byte_level(steps->back(), true)) {
    return Cut{Kind::kDigitsThenByteLevel, ""};
  }
  if (!is_byte_level(steps->back(), false)) return std::nullopt;
  Cut cut{Kind::kSplitThenByteLevel, ""};
  for (std::size_t i = 0; i + 1 < steps->size(); ++i) {
    const nlohmann::json& step = (*steps)[i];
    const auto pattern = step.find("pattern");
    if (step.value("type", "") != "Split" || step.value("behavior", "") != "Isolated" ||
        step.value("invert", false) || pattern == step.end() || !pattern->is_object() ||
        !pattern->contains("Regex") || !pattern->at("Regex").is_string()) {
      return std::nullopt;
    }
    if (i > 0) cut.pattern += kThen;
    cut.pattern += pattern->at("Regex").get<std::string>();
  }
  return cut;
}

std::string known_names() {
  std::vector<std::string_view> known;
  for (const PreTokenizer& pre : kPreTokenizers) known.push_back(pre.names);
  return fmt::format("{}", fmt::join(known, " "));
}

}  // namespace

const PreTokenizer& pre_tokenizer_named(std::string_view name, const std::string& file) {
  for (const PreTokenizer& pre : kPreTokenizers) {
    if (fmt::format(" {} ", pre.names).find(fmt::format(" {} ", name)) != std::string::npos) return pre;
  }
  bad_input(
      "{}: tokenizer.ggml.pre: found {}, expected one of {}; give the model's own tokenizer files with "
      "--tokenizer FOLDER",
      file, json_quoted(name), known_names());
}

const PreTokenizer& pre_tokenizer_like(const nlohmann::json& tokenizer, const std::string& file) {
  const nlohmann::json none;
  const auto member = [&](const char* key) -> const nlohmann::json& {
    const auto found = tokenizer.find(key);
    return found == tokenizer.end() ? none : *found;
  };
  const auto cut = read_cut(member("pre_tokenizer"));
  const nlohmann::json& normalizer = member("normalizer");
  const bool normalize = normalizer.is_object() && normalizer.value("type", "") == "NFC";
  const bool has_none = normalizer.is_object() && normalizer.value("type", "") == "Sequence" &&
                        normalizer.value("normalizers", nlohmann::json::array({0})).empty();
  const bool ignore_merges = tokenizer.at("model").value("ignore_merges", false);
  if (cut && (normalize || has_none || normalizer.is_null())) {
    for (const PreTokenizer& pre : kPreTokenizers) {
      if (pre.kind == cut->kind && pre.pattern == cut->pattern && pre.normalize == normalize &&
          pre.ignore_merges == ignore_merges) {
        return pre;
      }
    }
  }
  bad_input(
      "{}: found a pre-tokenizer that swiftprune knows no llama.cpp name for, expected that of one of {}",
      file, known_names());
}

Json byte_level(bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json pre_tokenizer_json(const PreTokenizer& pre) {
  if (pre.kind == Kind::kByteLevel) return byte_level(true);
  Json steps = Json::array();
  if (pre.kind == Kind::kDigitsThenByteLevel) {
    steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  } else {
    for (std::string_view rest = pre.pattern; !rest.empty();) {
      const std::size_t end = std::min(rest.find(kThen), rest.size());
      steps.push_back({{"type", "Split"},
                       {"pattern", {{"Regex", rest.substr(0, end)}}},
                       {"behavior", "Isolated"},
                       {"invert", false}});
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  }
  steps.push_back(byte_level(pre.kind == Kind::kDigitsThenByteLevel));
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

}  // namespace swiftprune
