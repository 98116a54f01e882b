#include "swiftprune/serving/json_schema.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

using Json = nlohmann::json;
using Kind = JsonNode::Kind;

constexpr std::size_t kMaxNodes = 10000;
constexpr std::size_t kMaxProperties = 64;  // bits of JsonNode::required
constexpr std::size_t kMaxTexts = 1000;

constexpr std::array<std::string_view, 9> kDone = {"type",  "properties", "required", "additionalProperties",
                                                   "items", "minItems",   "maxItems", "enum",
                                                   "const"};
constexpr std::array<std::string_view, 7> kNotes = {"title",   "description", "default", "examples",
                                                    "$schema", "$id",         "$comment"};
constexpr std::array<std::string_view, 7> kTypes = {"object",  "array",   "string", "number",
                                                    "integer", "boolean", "null"};

template <std::size_t N>
bool holds(const std::array<std::string_view, N>& list, std::string_view name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

std::string spelled(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

class Compiler {
 public:
  explicit Compiler(JsonSchema& schema) : schema_(schema) {}

  std::int32_t compile(const Json& json, const std::string& where) {
    if (json.is_boolean() && json.get<bool>()) return any();
    if (!json.is_object()) bad_usage("{}: found {}, expected a schema", where, spelled(json).substr(0, 64));
    check_keywords(json, where);
    if (const auto found = json.find("anyOf"); found != json.end()) return any_of(json, *found, where);
    if (const auto found = json.find("const"); found != json.end()) return texts(json, {*found}, where);
    if (const auto found = json.find("enum"); found != json.end()) {
      if (!found->is_array() || found->empty() || found->size() > kMaxTexts)
        bad_usage("{}.enum: expected a list of 1 to {} values", where, kMaxTexts);
      return texts(json, std::vector<Json>(found->begin(), found->end()), where);
    }
    return typed(json, where);
  }

  // Any value, made once: what is inside it is any value again.
  std::int32_t any() {
    if (any_ >= 0) return any_;
    any_ = add({.kind = Kind::kAnyOf});
    const std::int32_t object = any_object();
    const std::int32_t array = add({.kind = Kind::kArray, .children = {any_}});
    const std::int32_t string = add({.kind = Kind::kString});
    const std::int32_t number = add({.kind = Kind::kNumber});
    const std::int32_t word = add({.kind = Kind::kTexts, .texts = {"false", "null", "true"}});
    node(any_).children = {object, array, string, number, word};
    return any_;
  }
  std::int32_t any_object() {
    const std::int32_t inside = any();
    return add({.kind = Kind::kObject, .additional = inside});
  }

 private:
  JsonNode& node(std::int32_t index) { return schema_.nodes[static_cast<std::size_t>(index)]; }
  std::int32_t add(JsonNode made) {
    if (schema_.nodes.size() >= kMaxNodes) bad_usage("schema: found more than {} parts", kMaxNodes);
    schema_.nodes.push_back(std::move(made));
    return static_cast<std::int32_t>(schema_.nodes.size() - 1);
  }

  static void check_keywords(const Json& json, const std::string& where) {
    for (const auto& [key, value] : json.items()) {
      if (key == "anyOf" || holds(kDone, key) || holds(kNotes, key)) continue;
      bad_usage("{}: the keyword {} is not supported; supported are anyOf, {}", where, json_quoted(key),
                fmt::join(kDone, ", "));
    }
  }

  // Keywords that only one of the types has, beside others, would be ignored.
  static void refuse_beside(const Json& json, std::string_view by, const std::string& where) {
    for (const std::string_view key : kDone) {
      if (key == by || key == "type" || !json.contains(key)) continue;
      bad_usage("{}: the keyword {} beside {} is not supported", where, json_quoted(key), by);
    }
  }

  std::int32_t any_of(const Json& json, const Json& alternatives, const std::string& where) {
    refuse_beside(json, "anyOf", where);
    if (json.contains("type")) bad_usage("{}: the keyword \"type\" beside anyOf is not supported", where);
    if (!alternatives.is_array() || alternatives.empty() || alternatives.size() > kMaxProperties)
      bad_usage("{}.anyOf: expected a list of 1 to {} schemas", where, kMaxProperties);
    JsonNode made{.kind = Kind::kAnyOf};
    for (std::size_t i = 0; i < alternatives.size(); ++i)
      made.children.push_back(compile(alternatives[i], fmt::format("{}.anyOf[{}]", where, i)));
    return add(std::move(made));
  }

  std::int32_t texts(const Json& json, const std::vector<Json>& values, const std::string& where) {
    refuse_beside(json, json.contains("const") ? "const" : "enum", where);
    const std::vector<std::string> types = types_of(json, where);
    JsonNode made{.kind = Kind::kTexts};
    for (const Json& value : values) {
      const bool fits =
          types.empty() || std::any_of(types.begin(), types.end(), [&](const auto& type) {
            return type == value.type_name() || (type == "integer" && value.is_number_integer());
          });
      if (fits) made.texts.push_back(spelled(value));
    }
    if (made.texts.empty()) bad_usage("{}: found no value of its type", where);
    std::sort(made.texts.begin(), made.texts.end());
    made.texts.erase(std::unique(made.texts.begin(), made.texts.end()), made.texts.end());
    return add(std::move(made));
  }

  static std::vector<std::string> types_of(const Json& json, const std::string& where) {
    const auto found = json.find("type");
    if (found == json.end()) return {};
    std::vector<std::string> types;
    for (const Json& type : found->is_array() ? *found : Json::array({*found})) {
      if (!type.is_string() || !holds(kTypes, type.get_ref<const std::string&>()))
        bad_usage("{}.type: found {}, expected {}", where, spelled(type).substr(0, 64),
                  fmt::join(kTypes, ", "));
      types.push_back(type.get<std::string>());
    }
    if (types.empty()) bad_usage("{}.type: expected a type or a list of them", where);
    return types;
  }

  std::int32_t typed(const Json& json, const std::string& where) {
    std::vector<std::string> types = types_of(json, where);
    if (types.empty()) {
      if (json.contains("properties") || json.contains("required") || json.contains("additionalProperties") ||
          json.contains("items") || json.contains("minItems") || json.contains("maxItems")) {
        bad_usage("{}: expected \"type\" beside properties or items", where);
      }
      return any();
    }
    check_belonging(json, types, where);
    JsonNode made{.kind = Kind::kAnyOf};
    for (const std::string& type : types) made.children.push_back(of_type(json, type, where));
    return made.children.size() == 1 ? made.children.front() : add(std::move(made));
  }

  static void check_belonging(const Json& json, const std::vector<std::string>& types,
                              const std::string& where) {
    const std::pair<std::string_view, std::string_view> owners[] = {
        {"properties", "object"}, {"required", "object"}, {"additionalProperties", "object"},
        {"items", "array"},       {"minItems", "array"},  {"maxItems", "array"}};
    for (const auto& [key, type] : owners) {
      if (json.contains(key) && std::find(types.begin(), types.end(), type) == types.end())
        bad_usage("{}: found {} for a type that is no {}", where, key, type);
    }
  }

  std::int32_t of_type(const Json& json, const std::string& type, const std::string& where) {
    if (type == "object") return object(json, where);
    if (type == "array") return array(json, where);
    if (type == "string") return add({.kind = Kind::kString});
    if (type == "number") return add({.kind = Kind::kNumber});
    if (type == "integer") return add({.kind = Kind::kInteger});
    if (type == "null") return add({.kind = Kind::kTexts, .texts = {"null"}});
    return add({.kind = Kind::kTexts, .texts = {"false", "true"}});
  }

  std::int32_t object(const Json& json, const std::string& where) {
    std::vector<std::pair<std::string, std::int32_t>> properties;
    if (const auto found = json.find("properties"); found != json.end()) {
      if (!found->is_object() || found->size() > kMaxProperties)
        bad_usage("{}.properties: expected an object of at most {} schemas", where, kMaxProperties);
      for (const auto& [name, schema] : found->items()) {
        const std::string quoted = spelled(name);
        properties.emplace_back(quoted.substr(1, quoted.size() - 2),
                                compile(schema, fmt::format("{}.properties.{}", where, name)));
      }
    }
    std::sort(properties.begin(), properties.end());
    JsonNode made{.kind = Kind::kObject};
    for (auto& [name, child] : properties) {
      made.texts.push_back(std::move(name));
      made.children.push_back(child);
    }
    const auto additional = json.find("additionalProperties");
    if (additional == json.end()) {
      made.additional = any();
    } else if (!additional->is_boolean() || additional->get<bool>()) {
      made.additional = compile(*additional, where + ".additionalProperties");
    }
    made.required = required_of(json, made, where);
    return add(std::move(made));
  }

  static std::uint64_t required_of(const Json& json, const JsonNode& object, const std::string& where) {
    const auto found = json.find("required");
    if (found == json.end()) return 0;
    if (!found->is_array()) bad_usage("{}.required: expected a list of names", where);
    std::uint64_t required = 0;
    for (const Json& name : *found) {
      const std::string quoted = name.is_string() ? spelled(name) : "\"\"";
      const std::string text = quoted.substr(1, quoted.size() - 2);
      const auto at = std::lower_bound(object.texts.begin(), object.texts.end(), text);
      if (at == object.texts.end() || *at != text || !name.is_string()) {
        bad_usage("{}.required: found {}, expected names of properties", where, spelled(name).substr(0, 64));
      }
      required |= std::uint64_t{1} << (at - object.texts.begin());
    }
    return required;
  }

  std::int32_t array(const Json& json, const std::string& where) {
    JsonNode made{.kind = Kind::kArray};
    const auto count = [&](const char* key, std::int64_t absent) {
      const auto found = json.find(key);
      if (found == json.end()) return absent;
      if (!found->is_number_integer() || *found < 0 || *found > 1000000)
        bad_usage("{}.{}: expected a whole number from 0 to 1000000", where, key);
      return found->get<std::int64_t>();
    };
    made.min_items = count("minItems", 0);
    made.max_items = count("maxItems", made.max_items);
    if (made.min_items > made.max_items) {
      bad_usage("{}: found minItems {} above maxItems {}", where, made.min_items, made.max_items);
    }
    const auto items = json.find("items");
    made.children = {items == json.end() ? any() : compile(*items, where + ".items")};
    return add(std::move(made));
  }

  JsonSchema& schema_;
  std::int32_t any_ = -1;
};

}  // namespace

JsonSchema compile_json_schema(const Json& schema, std::string_view where) {
  JsonSchema result;
  result.root = Compiler(result).compile(schema, std::string(where));
  return result;
}

JsonSchema any_json_object() {
  JsonSchema result;
  result.root = Compiler(result).any_object();
  return result;
}

}  // namespace swiftprune
