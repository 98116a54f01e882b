// Reads tokenizer.json, the `tokenizers` library's format.
#pragma once

#include <filesystem>
#include <memory>

#include "swiftprune/text/tokenizer.h"

namespace swiftprune::text {

// The files beside it (tokenizer_config.json ...) name BOS and EOS and may add special tokens.
std::unique_ptr<Tokenizer> open_tokenizer_json(const std::filesystem::path& file);

}  // namespace swiftprune::text
