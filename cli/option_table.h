// Every command with its options as data, for other faces of the program than its command line (python/).
#pragma once

#include <string_view>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace swiftprune::cli {

// "flag", "int", "float" or "text"
std::string_view type_of(const CLI::Option& option);

// [{"name": "prune", "description": ..., "notes": its examples,
//   "options": [{"name": "sparsity", "positional": false, "required": false,
//                "type": "flag" | "int" | "float" | "text", "many": takes several values,
//                "values_each": how many values one use takes (2: a pattern and settings),
//                "values": ["f32", "bf16"] of a fixed set or [], "default": ..., "description": ...}]}]
// An option's name is its long one, without dashes.
nlohmann::ordered_json option_table(const CLI::App& program);

}  // namespace swiftprune::cli
