// JSON Lines: one JSON object a line.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace swiftprune {

struct JsonLine {
  std::string where;  // "<file>: line <n>", for messages
  nlohmann::json value;
};

// .jsonl or .ndjson
bool is_json_lines(const std::filesystem::path& file);
// The whole file without a byte order mark; Error{kBadInput} with position and line when it is not UTF-8.
std::string read_utf8_file(const std::filesystem::path& file);
// Blank lines are skipped; Error{kBadInput} naming the line that is not JSON, or the file without lines.
std::vector<JsonLine> read_json_lines(const std::filesystem::path& file);

}  // namespace swiftprune
