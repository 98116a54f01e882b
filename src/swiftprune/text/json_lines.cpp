#include "swiftprune/text/json_lines.h"

#include <algorithm>

#include "swiftprune/core/error.h"
#include "swiftprune/text/json_field.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

bool is_json_lines(const std::filesystem::path& file) {
  return file.extension() == ".jsonl" || file.extension() == ".ndjson";
}

std::string read_utf8_file(const std::filesystem::path& file) {
  std::string bytes = text::file_bytes(file);
  if (bytes.starts_with(kByteOrderMark)) bytes.erase(0, kByteOrderMark.size());
  if (const auto position = text::invalid_utf8_position(bytes)) {
    const auto line =
        1 + std::count(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(*position), '\n');
    bad_input("{}: found the byte 0x{:02x} at position {} (line {}), expected UTF-8", file.string(),
              static_cast<unsigned char>(bytes[*position]), *position, line);
  }
  return bytes;
}

std::vector<JsonLine> read_json_lines(const std::filesystem::path& file) {
  const std::string bytes = read_utf8_file(file);
  std::vector<JsonLine> lines;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t end = std::min(bytes.find('\n', begin), bytes.size());
    const std::string_view line = std::string_view(bytes).substr(begin, end - begin);
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
      JsonLine json{fmt::format("{}: line {}", file.string(), number), {}};
      try {
        json.value = nlohmann::json::parse(line);
      } catch (const nlohmann::json::exception& error) {
        bad_input("{}: not valid JSON: {}", json.where, error.what());
      }
      lines.push_back(std::move(json));
    }
    begin = end + 1;
  }
  if (lines.empty()) bad_input("{}: found no line, expected one JSON object a line", file.string());
  return lines;
}

}  // namespace swiftprune
