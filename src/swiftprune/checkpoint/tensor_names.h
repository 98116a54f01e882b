// The names under which a model's tensors are looked for: those of its family's causal model. Files saved
// from the base model, or by versions of transformers that named the parts of a model otherwise, get them
// here, so that everything behind the checkpoint knows one spelling; what is written has it too.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/checkpoint.h"

namespace swiftprune {

// Renames in place and returns what to tell the user (nothing when all names are as expected). Throws
// Error{kBadInput} that starts with `folder` when it cannot be told which tensors are the model's.
std::vector<std::string> unify_names(const nlohmann::json& config, const std::string& folder,
                                     std::vector<TensorInfo>& tensors);

// Does the file hold the transpose [inputs, outputs] of this weight? By the name that unify_names() gives.
bool is_stored_transposed(const nlohmann::json& config, std::string_view name);

}  // namespace swiftprune
