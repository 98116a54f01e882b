// The tokenizer of a Hugging Face folder as llama.cpp's converter writes it (tokenizer.ggml.*): byte-level
// BPE ("gpt2") and SentencePiece-like BPE ("llama") from tokenizer.json.
#pragma once

#include <cstdint>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "swiftprune/export/gguf_writer.h"

namespace swiftprune {

// config: config.json, for special tokens that the tokenizer's files do not name. num_embeddings: rows of the
// embedding; those without a token become "[PAD<id>]". Throws Error{kBadInput} for a tokenizer that llama.cpp
// has no name for.
void add_gguf_vocabulary(const std::filesystem::path& folder, const nlohmann::json& config,
                         std::int64_t num_embeddings, GgufMetadata& metadata);

}  // namespace swiftprune
