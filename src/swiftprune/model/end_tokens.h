// The tokens that end a text, where transformers looks for them (GenerationConfig.from_model_config and the
// text-generation pipeline): every id of generation_config.json, else of config.json, else the tokenizer's
// EOS. And what else these files ask of a text, which is not done here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "swiftprune/model/model.h"
#include "swiftprune/text/tokenizer.h"

namespace swiftprune {

// Ascending, each once; empty when nothing names one. Throws Error{kBadInput} naming the file and the field.
std::vector<std::int32_t> end_tokens(const Model& model, const Tokenizer& tokenizer);

// Notes of what differs from transformers' texts: the fields of these files that would change them and are not followed
// (repetition_penalty, temperature where do_sample is true, ...), since options and requests say how texts are written;
// and longrope's factors where texts may have `positions`.
std::vector<std::string> generation_notes(const Model& model, std::int64_t positions = 0);

}  // namespace swiftprune
