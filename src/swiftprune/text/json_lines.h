// JSON Lines: one JSON object a line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/text/text_file.h"

namespace swiftprune {

struct JsonLine {
  std::string where;  // "<file>: line <n>", for messages
  nlohmann::json value;
};

// Parts of a file that are not as the rest: counted, and told to the user, instead of losing the file.
struct OddParts {
  std::int64_t num_left_out = 0;
  std::int64_t num_mended = 0;   // NaN and infinities became null, half surrogate pairs U+FFFD
  std::string first_left_out{};  // what was wrong with it

  void leave_out(const std::string& message);
};

// .jsonl or .ndjson
bool is_json_lines(const std::filesystem::path& file);

// What Python's json module writes and JSON has not, mended: NaN, Infinity and -Infinity become null, half a
// surrogate pair becomes U+FFFD. Nothing when there is none of it.
std::optional<std::string> mended_json(std::string_view text);

// Blank lines are skipped. A line that is not JSON is Error{kBadInput} naming it, or is left out where `odd`
// is given; so is a file without lines.
std::vector<JsonLine> read_json_lines(const std::filesystem::path& file, OddParts* odd = nullptr);
std::vector<JsonLine> parse_json_lines(std::string_view bytes, const std::string& file,
                                       OddParts* odd = nullptr);

}  // namespace swiftprune
