// How llama.cpp's names of pre-tokenizers (tokenizer.ggml.pre) translate to and from tokenizer.json: how text
// is cut before byte-level BPE. Source: llama.cpp's convert_hf_to_gguf.py and llama-vocab.cpp.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace swiftprune {

// `names`: the values of tokenizer.ggml.pre, separated by spaces; the first is the one to write.
struct PreTokenizer {
  enum class Kind { kByteLevel, kDigitsThenByteLevel, kSplitThenByteLevel };
  std::string_view names;
  Kind kind;
  std::string_view pattern;  // of kSplitThenByteLevel; several with U+001F between
  bool normalize = false;    // to NFC
  bool ignore_merges = false;
  bool add_bos = false;  // where tokenizer.ggml.add_bos_token is absent

  std::string_view name() const { return names.substr(0, names.find(' ')); }
};

// Throws Error{kBadInput} that starts with `file` and lists the known names.
const PreTokenizer& pre_tokenizer_named(std::string_view name, const std::string& file);
// The one that cuts as this tokenizer.json does; throws Error{kBadInput} when llama.cpp has no name for it.
const PreTokenizer& pre_tokenizer_like(const nlohmann::json& tokenizer, const std::string& file);

nlohmann::ordered_json byte_level(bool use_regex);
nlohmann::ordered_json pre_tokenizer_json(const PreTokenizer& pre);

}  // namespace swiftprune
