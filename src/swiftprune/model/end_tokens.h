// The tokens that end a text, where transformers looks for them (GenerationConfig.from_model_config and the
// text-generation pipeline): every id of generation_config.json, else of config.json, else the tokenizer's
// EOS.
#pragma once

#include <cstdint>
#include <vector>

#include "swiftprune/model/model.h"
#include "swiftprune/text/tokenizer.h"

namespace swiftprune {

// Ascending, each once; empty when nothing names one. Throws Error{kBadInput} naming the file and the field.
std::vector<std::int32_t> end_tokens(const Model& model, const Tokenizer& tokenizer);

}  // namespace swiftprune
