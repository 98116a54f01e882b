#include "swiftprune/model/config_reader.h"

#include <cmath>
#include <limits>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kLimit = std::int64_t{1} << 31;

// What is computed is float.
constexpr double kLargest = std::numeric_limits<float>::max(),
                 kSmallest = std::numeric_limits<float>::denorm_min();

bool fits(const nlohmann::json& value) {
  return value.is_number() && std::abs(value.get<double>()) <= kLargest;
}

constexpr std::size_t kExcerptBytes = 40;

std::string excerpt(const nlohmann::json& value) { return json_excerpt(value, kExcerptBytes); }

}  // namespace

std::string ConfigReader::where(std::string_view key) const {
  return fmt::format("config.json: field '{}{}'", prefix_, key);
}

const nlohmann::json* ConfigReader::value(std::string_view key) const {
  if (!object_.is_object()) return nullptr;
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

bool ConfigReader::has(std::string_view key) const { return value(key) != nullptr; }

bool ConfigReader::is_null(std::string_view key) const {
  return object_.is_object() && object_.contains(key) && object_.find(key)->is_null();
}

std::int64_t ConfigReader::integer(std::string_view key, std::optional<std::int64_t> fallback,
                                   std::int64_t minimum) const {
  const nlohmann::json* v = value(key);
  if (v == nullptr) {
    if (fallback) return *fallback;
    bad_input("{}: absent, expected an integer", where(key));
  }
  const bool in_range = v->is_number_unsigned() ? v->get<std::uint64_t>() < static_cast<std::uint64_t>(kLimit)
                                                : v->is_number_integer() && v->get<std::int64_t>() < kLimit;
  if (!in_range || v->get<std::int64_t>() < minimum) {
    bad_input("{}: found {}, expected an integer from {} to {}", where(key), excerpt(*v), minimum,
              kLimit - 1);
  }
  return v->get<std::int64_t>();
}

double ConfigReader::number(std::string_view key, std::optional<double> fallback) const {
  const nlohmann::json* v = value(key);
  if (v == nullptr) {
    if (fallback) return *fallback;
    bad_input("{}: absent, expected a number", where(key));
  }
  if (!fits(*v)) bad_input("{}: found {}, expected a number that a float holds", where(key), excerpt(*v));
  return v->get<double>();
}

double ConfigReader::positive(std::string_view key, std::optional<double> fallback) const {
  const double value = number(key, fallback);
  if (!(value >= kSmallest)) bad_input("{}: found {}, expected a positive number", where(key), value);
  return value;
}

bool ConfigReader::boolean(std::string_view key, bool fallback) const {
  const nlohmann::json* v = value(key);
  if (v == nullptr) return fallback;
  if (!v->is_boolean()) bad_input("{}: found {}, expected true or false", where(key), excerpt(*v));
  return v->get<bool>();
}

std::string ConfigReader::text(std::string_view key, std::optional<std::string> fallback) const {
  const nlohmann::json* v = value(key);
  if (v == nullptr) {
    if (fallback) return *fallback;
    bad_input("{}: absent, expected a string", where(key));
  }
  if (!v->is_string()) bad_input("{}: found {}, expected a string", where(key), excerpt(*v));
  return v->get<std::string>();
}

std::vector<std::int64_t> ConfigReader::integers(std::string_view key) const {
  const nlohmann::json* v = value(key);
  if (v == nullptr || !v->is_array()) bad_input("{}: expected an array of integers", where(key));
  std::vector<std::int64_t> result;
  for (const nlohmann::json& item : *v) {
    const bool fits = item.is_number_unsigned()
                          ? item.get<std::uint64_t>() < static_cast<std::uint64_t>(kLimit)
                          : item.is_number_integer();
    if (!fits) bad_input("{}: found {} at {}, expected integers", where(key), excerpt(item), result.size());
    result.push_back(item.get<std::int64_t>());
  }
  return result;
}

std::vector<double> ConfigReader::numbers(std::string_view key) const {
  const nlohmann::json* v = value(key);
  if (v == nullptr || !v->is_array()) bad_input("{}: expected an array of numbers", where(key));
  std::vector<double> result;
  for (const nlohmann::json& item : *v) {
    if (!fits(item)) {
      bad_input("{}: found {} at {}, expected numbers that a float holds", where(key), excerpt(item),
                result.size());
    }
    result.push_back(item.get<double>());
  }
  return result;
}

std::vector<std::string> ConfigReader::texts(std::string_view key) const {
  const nlohmann::json* v = value(key);
  if (v == nullptr || !v->is_array()) bad_input("{}: expected an array of strings", where(key));
  std::vector<std::string> result;
  for (const nlohmann::json& item : *v) {
    if (!item.is_string()) {
      bad_input("{}: found {} at {}, expected strings", where(key), excerpt(item), result.size());
    }
    result.push_back(item.get<std::string>());
  }
  return result;
}

ConfigReader ConfigReader::child(std::string_view key) const {
  const nlohmann::json* v = value(key);
  if (v == nullptr || !v->is_object()) bad_input("{}: expected an object", where(key));
  return ConfigReader(*v, fmt::format("{}{}.", prefix_, key));
}

}  // namespace swiftprune
