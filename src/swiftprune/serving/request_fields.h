// The fields of a request's body: one table says what is done with each, and a reader takes their values
// strictly. A field that would change the answer is done or refused by name, never ignored.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace swiftprune {

// A refusal: an HTTP status and OpenAI's error object.
struct ApiError {
  int status = 400;
  std::string type;  // "invalid_request_error", ...
  std::string message;
};
nlohmann::ordered_json to_json(const ApiError& error);
[[noreturn]] void refuse(const std::string& message);  // 400

enum class Endpoint { kCompletions = 1, kChat = 2, kBoth = 3 };
enum class FieldUse {
  kDone,
  kHarmless,  // changes nothing about an answer of this server
  kRefused,   // unless its value asks for nothing
};

struct RequestField {
  std::string_view name;
  Endpoint endpoint;
  FieldUse use;
  // kRefused: what else to do, and the values (JSON, separated by spaces) that ask for nothing; null always
  // does.
  std::string_view hint = {};
  std::string_view neutral = {};
};
std::span<const RequestField> request_fields();

class RequestFields {
 public:
  // Throws ApiError for a body that is no JSON object, and for fields that are unknown (with the nearest
  // known one) or refused.
  RequestFields(const std::string& body, Endpoint endpoint);

  const nlohmann::json* find(std::string_view key) const;  // null when absent or null
  // The values of known types and bounds, or ApiError with key, found and expected.
  std::optional<std::int64_t> integer(std::string_view key, std::int64_t least, std::int64_t most) const;
  double number(std::string_view key, double fallback, double least, double most) const;
  bool flag(std::string_view key) const;

 private:
  nlohmann::json body_;
};

// ApiError for what an object below `where` holds beside `known`.
void check_members(const nlohmann::json& object, std::string_view where,
                   std::span<const std::string_view> known);
// What was found, for a message.
std::string shown(const nlohmann::json& value);

}  // namespace swiftprune
