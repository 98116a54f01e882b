// Reads fields of config.json with messages that name the file and the field.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace swiftprune {

class ConfigReader {
 public:
  // prefix: path of `object` inside config.json, for messages ("rope_scaling.").
  ConfigReader(const nlohmann::json& object, std::string prefix = "")
      : object_(object), prefix_(std::move(prefix)) {}

  bool has(std::string_view key) const;      // present and not null
  bool is_null(std::string_view key) const;  // present and null: often "off" where absent means a default
  // Positive integer; throws Error{kBadInput} when absent (without a fallback), not an integer, or out of
  // [minimum, 2^31).
  std::int64_t integer(std::string_view key, std::optional<std::int64_t> fallback = std::nullopt,
                       std::int64_t minimum = 1) const;
  // Numbers that a float holds; > 0 as a float, too.
  double number(std::string_view key, std::optional<double> fallback = std::nullopt) const;
  double positive(std::string_view key, std::optional<double> fallback = std::nullopt) const;
  bool boolean(std::string_view key, bool fallback) const;
  std::string text(std::string_view key, std::optional<std::string> fallback = std::nullopt) const;
  std::vector<std::int64_t> integers(std::string_view key) const;  // array of integers below 2^31
  std::vector<double> numbers(std::string_view key) const;         // array of such numbers
  std::vector<std::string> texts(std::string_view key) const;      // array of strings
  ConfigReader child(std::string_view key) const;  // a nested object; throws when it is not one
  const nlohmann::json& object() const { return object_; }
  // "config.json: field 'x'" for messages of the caller.
  std::string where(std::string_view key) const;

 private:
  const nlohmann::json* value(std::string_view key) const;  // null when absent
  const nlohmann::json& object_;
  std::string prefix_;
};

}  // namespace swiftprune
