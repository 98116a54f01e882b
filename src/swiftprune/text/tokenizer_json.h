// Reads tokenizer.json, the `tokenizers` library's format.
#pragma once

#include <filesystem>
#include <memory>

#include "swiftprune/core/json.h"
#include "swiftprune/core/sha256.h"
#include "swiftprune/text/tokenizer.h"
#include "swiftprune/text/tokenizer_config.h"

namespace swiftprune::text {

// The files beside it (tokenizer_config.json ...) name BOS and EOS and may add special tokens.
std::unique_ptr<Tokenizer> open_tokenizer_json(const std::filesystem::path& file);

// Of its content; hash: of what was read so far. frame_of_config: BOS and EOS are put around a text as
// tokenizer_config.json says, for content that has no rule of its own.
std::unique_ptr<Tokenizer> make_tokenizer(const JsonField& root, const TokenizerConfig& config, Sha256 hash,
                                          bool frame_of_config = false);

}  // namespace swiftprune::text
