// A value of a JSON file that knows where it stands, so that every error names the file and the path.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace swiftprune::text {

// Whole file as bytes; Error{kBadInput} when it cannot be read.
std::string file_bytes(const std::filesystem::path& file);
// Error{kBadInput} with the position when the text is not JSON.
nlohmann::json parse_json(std::string_view text, const std::filesystem::path& file);

class JsonField {
 public:
  // value must outlive the field and what is taken from it.
  JsonField(const nlohmann::json& value, std::string file, std::string path = "")
      : value_(&value), file_(std::move(file)), path_(std::move(path)) {}

  const nlohmann::json& json() const { return *value_; }
  std::string where() const { return path_.empty() ? file_ : file_ + ": " + path_; }
  const std::string& file() const { return file_; }

  // Member of an object; find: nothing when absent or null.
  std::optional<JsonField> find(std::string_view key) const;
  JsonField at(std::string_view key) const;
  std::vector<JsonField> items() const;  // of an array

  const std::string& string() const;
  std::int64_t integer(std::int64_t min, std::int64_t max) const;
  double number() const;
  bool boolean() const;
  bool boolean_or(std::string_view key, bool absent) const;
  std::optional<std::string> string_if(std::string_view key) const;  // nothing when absent or null
  // A string of exactly one code point.
  char32_t code_point() const;

  // Throws "<file>: <path>: found <value>, expected <expected>".
  [[noreturn]] void unexpected(std::string_view expected) const;

 private:
  const nlohmann::json* value_;
  std::string file_, path_;
};

// A list of named things that JSON objects name by "type"; make(field) builds one of them.
template <class T>
struct Component {
  std::string_view type;
  T (*make)(const JsonField&);
};
std::string joined_types(const std::vector<std::string_view>& types);

template <class T, std::size_t N>
T make_component(const Component<T> (&list)[N], const JsonField& field) {
  const JsonField type = field.at("type");
  std::vector<std::string_view> known;
  for (const Component<T>& component : list) {
    if (component.type == type.string()) return component.make(field);
    known.push_back(component.type);
  }
  type.unexpected("one of the supported components: " + joined_types(known));
}

}  // namespace swiftprune::text
