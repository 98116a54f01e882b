#include "swiftprune/text/json_field.h"

#include <fmt/ranges.h>

#include <cmath>
#include <fstream>
#include <iterator>

#include "swiftprune/core/error.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::text {

std::string file_bytes(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in || std::filesystem::is_directory(file))
    bad_input("{}: cannot be opened for reading", file.string());
  std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (in.bad()) bad_input("{}: reading failed", file.string());
  return bytes;
}

nlohmann::json parse_json(std::string_view text, const std::filesystem::path& file) {
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    bad_input("{}: not valid JSON: {}", file.string(), error.what());
  }
}

std::optional<JsonField> JsonField::find(std::string_view key) const {
  if (!value_->is_object()) unexpected("an object");
  const auto member = value_->find(key);
  if (member == value_->end() || member->is_null()) return std::nullopt;
  return JsonField(*member, file_, path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key));
}

JsonField JsonField::at(std::string_view key) const {
  if (const auto member = find(key)) return *member;
  bad_input("{}: field \"{}\" is missing", where(), key);
}

std::vector<JsonField> JsonField::items() const {
  if (!value_->is_array()) unexpected("a list");
  std::vector<JsonField> fields;
  for (const auto& item : *value_)
    fields.emplace_back(item, file_, fmt::format("{}[{}]", path_, fields.size()));
  return fields;
}

const std::string& JsonField::string() const {
  if (!value_->is_string()) unexpected("a string");
  return value_->get_ref<const std::string&>();
}

std::int64_t JsonField::integer(std::int64_t min, std::int64_t max) const {
  const bool fits = value_->is_number_unsigned()
                        ? value_->get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX)
                        : value_->is_number_integer();
  if (!fits || value_->get<std::int64_t>() < min || value_->get<std::int64_t>() > max) {
    unexpected(fmt::format("an integer from {} to {}", min, max));
  }
  return value_->get<std::int64_t>();
}

double JsonField::number() const {
  if (!value_->is_number() || !std::isfinite(value_->get<double>())) unexpected("a number");
  return value_->get<double>();
}

bool JsonField::boolean() const {
  if (!value_->is_boolean()) unexpected("true or false");
  return value_->get<bool>();
}

bool JsonField::boolean_or(std::string_view key, bool absent) const {
  const auto member = find(key);
  return member ? member->boolean() : absent;
}

std::optional<std::string> JsonField::string_if(std::string_view key) const {
  const auto member = find(key);
  if (!member) return std::nullopt;
  return member->string();
}

char32_t JsonField::code_point() const {
  const std::string& text = string();
  if (text.empty() || utf8_length(text[0]) != text.size()) unexpected("one character");
  return code_point_at(text, 0).value;
}

void JsonField::unexpected(std::string_view expected) const {
  std::string found = value_->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (found.size() > 80) found = replace_invalid_utf8(found.substr(0, 77)) + "...";
  bad_input("{}: found {}, expected {}", where(), found, expected);
}

std::string joined_types(const std::vector<std::string_view>& types) {
  return fmt::format("{}", fmt::join(types, ", "));
}

}  // namespace swiftprune::text
