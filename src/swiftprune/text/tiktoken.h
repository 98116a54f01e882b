// Reads rank files of OpenAI's tiktoken, which Llama-3 ships as tokenizer.model: one line a token, its bytes
// in base64 and its rank. Pattern and special tokens are not in the file; tiktoken.cpp lists those that are
// known.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "swiftprune/text/tokenizer.h"

namespace swiftprune::text {

// Whether the bytes start like a rank file.
bool looks_like_tiktoken(std::string_view bytes);
std::unique_ptr<Tokenizer> open_tiktoken(const std::filesystem::path& file);

}  // namespace swiftprune::text
