// JSON of unknown origin, read by one reader with the rules that it needs: limits of size, depth and number
// of values, and no key twice in one object (readers differ in which of the two they take). A JsonField is a
// value that knows where it stands, so that every message names the file and the path.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace swiftprune {

inline constexpr std::size_t kMaxJsonDepth = 64;  // objects and lists inside each other

struct JsonLimits {
  std::uint64_t max_bytes = 256'000'000;
  std::size_t max_depth = kMaxJsonDepth;
  std::uint64_t max_values = 20'000'000;  // each takes some 16 to 100 bytes of memory
};

// Throws Error{kBadInput}; `where` (a file, "body", "a.jsonl: line 3") starts the message.
nlohmann::json parse_json(std::string_view text, const std::string& where, const JsonLimits& limits = {});
nlohmann::json read_json_file(const std::filesystem::path& path, const JsonLimits& limits = {});

// Names from files go into messages, so that they must not move a terminal's cursor.
bool has_control_characters(std::string_view name);

// The text as a JSON string: for names from files in messages and in files to write. Bytes that are not UTF-8
// become U+FFFD.
std::string json_quoted(std::string_view text);

// The value as JSON, cut to `max_bytes`: what was found, for messages.
std::string json_excerpt(const nlohmann::json& value, std::size_t max_bytes = 80);

// The library's message without its "[json.exception...] " prefix.
std::string json_error_text(const std::exception& error);

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

  // Throws "<file>: <path>: found <value>, expected <expected>".
  [[noreturn]] void unexpected(std::string_view expected) const;

 private:
  const nlohmann::json* value_;
  std::string file_, path_;
};

}  // namespace swiftprune
