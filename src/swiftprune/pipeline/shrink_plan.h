// What is left of each layer of a model that shrinks, as a file: `tune --units` writes it, `shrink --plan` runs it.
//   {"dense": {"family": "llama", "hidden_size": 576, "num_hidden_layers": 3, "intermediate_size": 1536,
//              "num_key_value_heads": 3},
//    "layers": [{"intermediate_size": 1120, "num_key_value_heads": 3}, {"removed": true}, ...]}
// one item for each of the dense model's layers.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "swiftprune/model/model_config.h"
#include "swiftprune/pipeline/choices/shape_choice.h"

namespace swiftprune {

nlohmann::ordered_json shrink_plan_document(const ModelConfig& model, const ShapeChoice& plan);

// Throws Error{kBadInput} naming the file and the place for what is no such plan, sizes that the model cannot have, a plan
// of another model, one that leaves everything as it is or no layer; Error{kUsage} naming --plan for units that cannot be
// removed from this model.
ShapeChoice read_shrink_plan(const std::string& path, const ModelConfig& model);

}  // namespace swiftprune
