// A JSON Schema (json-schema.org, draft 2020-12) as nodes that a text can be followed through byte by byte:
// the part of it that constrained answers can keep. Everything else is refused by name, never ignored.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace swiftprune {

struct JsonNode {
  enum class Kind {
    kObject,
    kArray,
    kString,
    kNumber,
    kInteger,
    kTexts,  // one of these texts: enum, const, true, false, null
    kAnyOf,
  };
  Kind kind = Kind::kTexts;
  // kTexts: as JSON without spaces, sorted. kObject: the names of properties as JSON without the quotes,
  // sorted.
  std::vector<std::string> texts = {};
  // Nodes. kObject: of each property; kArray: of the items, one; kAnyOf: the alternatives.
  std::vector<std::int32_t> children = {};
  std::uint64_t required = 0;    // kObject: bit i for property i
  std::int32_t additional = -1;  // kObject: node of properties that have no name here; -1: there are none
  std::int64_t min_items = 0;    // kArray
  std::int64_t max_items = std::numeric_limits<std::int64_t>::max();
};

struct JsonSchema {
  std::vector<JsonNode> nodes;
  std::int32_t root = 0;
  const JsonNode& at(std::int32_t node) const { return nodes[static_cast<std::size_t>(node)]; }
};

// Keywords: type (also a list), properties, required, additionalProperties, items, minItems, maxItems, enum,
// const, anyOf; title, description, default, examples, $schema, $id and $comment say nothing about the text.
// Objects take other properties unless additionalProperties is false. Throws Error{kUsage} naming place and
// keyword; `where` begins the place.
JsonSchema compile_json_schema(const nlohmann::json& schema, std::string_view where);
// Any object.
JsonSchema any_json_object();

}  // namespace swiftprune
