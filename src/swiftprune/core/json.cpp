#include "swiftprune/core/json.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json_numbers.h"
#include "swiftprune/core/python_json.h"
#include "swiftprune/core/read_file.h"

namespace swiftprune {
namespace {

using Json = nlohmann::json;

// Builds the document from the parser's events, so that a limit is tested before memory is taken for it.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(const std::string& where, const JsonLimits& limits) : where_(where), limits_(limits) {}
  Json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& key) override {
    auto& members = open_.back()->get_ref<Json::object_t&>();
    const auto [member, is_new] = members.try_emplace(key, nullptr);
    if (!is_new) bad_input("{}: found the key {} twice in one object", where_, json_quoted(key));
    member_ = &member->second;
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) override {
    bad_input("{}: not valid JSON: {}", where_, json_error_text(error));
  }

 private:
  Json& place(Json value) {
    if (++num_values_ > limits_.max_values) {
      bad_input("{}: found more than {} values, expected at most so many", where_, limits_.max_values);
    }
    if (open_.empty()) return root_ = std::move(value);
    if (open_.back()->is_object()) return *member_ = std::move(value);
    auto& list = open_.back()->get_ref<Json::array_t&>();
    return list.emplace_back(std::move(value));
  }
  template <class T>
  bool add(T&& value) {
    place(Json(std::forward<T>(value)));
    return true;
  }
  bool open(Json value) {
    if (open_.size() >= limits_.max_depth)
      bad_input("{}: found JSON nested deeper than {} levels", where_, limits_.max_depth);
    // Stays where it is while it is open: what holds it grows only after it is closed.
    open_.push_back(&place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const std::string& where_;
  const JsonLimits& limits_;
  Json root_;
  std::vector<Json*> open_;
  Json* member_ = nullptr;
  std::uint64_t num_values_ = 0;
};

}  // namespace

bool has_control_characters(std::string_view name) {
  return std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

std::string json_quoted(std::string_view text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string json_excerpt(const Json& value, std::size_t max_bytes) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() <= max_bytes) return text;
  std::size_t end = max_bytes - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not inside a character
  return text.substr(0, end) + "...";
}

std::string json_error_text(const std::exception& error) {
  const std::string text = error.what();
  const auto prefix_end = text.find("] ");
  return text.starts_with("[json.") && prefix_end != std::string::npos ? text.substr(prefix_end + 2) : text;
}

Json parse_json(std::string_view text, const std::string& where, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    bad_input("{}: found {} bytes, expected at most {}", where, text.size(), limits.max_bytes);
  }
  Builder builder(where, limits);
  Json::sax_parse(text, &builder);
  return builder.take();
}

Json read_json_file(const std::filesystem::path& path, const JsonLimits& limits) {
  std::error_code ignored;
  const auto bytes = std::filesystem::file_size(path, ignored);
  if (!ignored && bytes > limits.max_bytes) {
    bad_input("{}: found {} bytes, expected at most {}", path.string(), bytes, limits.max_bytes);
  }
  const auto text = file_bytes(path);
  try {
    return parse_json(text, path.string(), limits);
  } catch (const Error&) {
    const auto spelled = with_spelled_floats(text);
    if (!spelled) throw;
    return parse_json(*spelled, path.string(), limits);
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
  fields.reserve(value_->size());
  for (const auto& item : *value_)
    fields.emplace_back(item, file_, fmt::format("{}[{}]", path_, fields.size()));
  return fields;
}

const std::string& JsonField::string() const {
  if (!value_->is_string()) unexpected("a string");
  return value_->get_ref<const std::string&>();
}

std::int64_t JsonField::integer(std::int64_t min, std::int64_t max) const {
  if (!is_whole_number(*value_) || value_->get<std::int64_t>() < min || value_->get<std::int64_t>() > max) {
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

void JsonField::unexpected(std::string_view expected) const {
  bad_input("{}: found {}, expected {}", where(), json_excerpt(*value_), expected);
}

}  // namespace swiftprune
