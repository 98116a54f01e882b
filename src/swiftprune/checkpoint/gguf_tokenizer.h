// The tokenizer that a GGUF file describes, as the files of a Hugging Face folder. Ids are those of the
// model's own tokenizer. Two kinds: "gpt2" (byte-level BPE with merges) and "llama" (SentencePiece BPE with
// scores).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "swiftprune/checkpoint/gguf.h"

namespace swiftprune {

struct TokenizerFiles {
  std::string tokenizer;           // tokenizer.json
  std::string tokenizer_config;    // tokenizer_config.json
  std::string special_tokens_map;  // special_tokens_map.json
  std::vector<std::string> notes;  // what was assumed, for the user

  // By their names in the folder.
  std::array<std::pair<const char*, const std::string&>, 3> named() const {
    return {{{"tokenizer.json", tokenizer},
             {"tokenizer_config.json", tokenizer_config},
             {"special_tokens_map.json", special_tokens_map}}};
  }
};

// Ids of the file; absent where it names none.
struct SpecialTokens {
  std::optional<std::int64_t> bos, eos, end_of_turn, unknown, padding;
};

// num_embeddings: no token id may reach it. Throws Error{kBadInput}.
SpecialTokens gguf_special_tokens(const GgufFile& file, std::int64_t num_embeddings);

// default_pre_tokenizer: that of a byte-level file without tokenizer.ggml.pre.
TokenizerFiles make_tokenizer_files(const GgufFile& file, std::int64_t num_embeddings,
                                    std::string_view default_pre_tokenizer);

}  // namespace swiftprune
