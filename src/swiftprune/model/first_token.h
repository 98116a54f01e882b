// The token that a text starts with where nothing stands before it: the tokenizer's BOS, else config.json's, else
// its EOS, else 0.
#pragma once

#include <cstdint>

#include "swiftprune/model/model.h"

namespace swiftprune {

std::int32_t first_token(const Model& model);

}  // namespace swiftprune
