#include "swiftprune/text/json_lines.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/text/text_file.h"

namespace swiftprune {
namespace {

// The code unit of "\uXXXX" at the start of the text; nothing when there is none.
std::optional<std::uint32_t> escaped_unit(std::string_view text) {
  if (text.size() < 6 || text[0] != '\\' || text[1] != 'u') return std::nullopt;
  std::uint32_t unit = 0;
  const auto [end, error] = std::from_chars(text.data() + 2, text.data() + 6, unit, 16);
  return error == std::errc() && end == text.data() + 6 ? std::optional(unit) : std::nullopt;
}

bool is_high(std::optional<std::uint32_t> unit) { return unit && *unit >= 0xD800 && *unit < 0xDC00; }
bool is_low(std::optional<std::uint32_t> unit) { return unit && *unit >= 0xDC00 && *unit < 0xE000; }

nlohmann::json parse_mended(std::string_view text, const std::string& where, OddParts& odd) {
  try {
    return parse_json(text, where);
  } catch (const Error&) {
    const auto mended = mended_json(text);
    if (!mended) throw;
    nlohmann::json value = parse_json(*mended, where);
    ++odd.num_mended;
    return value;
  }
}

}  // namespace

void OddParts::leave_out(const std::string& message) {
  if (num_left_out++ == 0) first_left_out = message;
}

bool is_json_lines(const std::filesystem::path& file) {
  const std::string extension = lower_extension(file);
  return extension == ".jsonl" || extension == ".ndjson";
}

std::optional<std::string> mended_json(std::string_view text) {
  constexpr std::string_view kNumbers[] = {"-Infinity", "Infinity", "NaN"};
  std::string mended;
  bool in_string = false, changed = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view rest = text.substr(at);
    if (!in_string) {
      const auto number = std::find_if(std::begin(kNumbers), std::end(kNumbers),
                                       [&](std::string_view n) { return rest.starts_with(n); });
      if (number != std::end(kNumbers)) {
        mended += "null";
        at += number->size();
        changed = true;
        continue;
      }
    } else if (rest[0] == '\\') {
      const auto unit = escaped_unit(rest);
      if (is_high(unit) && is_low(escaped_unit(rest.substr(6)))) {
        mended += rest.substr(0, 12);
        at += 12;
      } else if (is_high(unit) || is_low(unit)) {
        mended += "\\ufffd";
        at += 6;
        changed = true;
      } else {
        mended += rest.substr(0, 2);
        at += std::min<std::size_t>(2, rest.size());
      }
      continue;
    }
    if (rest[0] == '"') in_string = !in_string;
    mended += rest[0];
    ++at;
  }
  return changed ? std::optional(std::move(mended)) : std::nullopt;
}

std::vector<JsonLine> read_json_lines(const std::filesystem::path& file, OddParts* odd) {
  const std::string bytes = read_text_file(file).bytes;
  if (odd == nullptr) check_utf8(bytes, file.string());
  return parse_json_lines(bytes, file.string(), odd);
}

std::vector<JsonLine> parse_json_lines(std::string_view bytes, const std::string& file, OddParts* odd) {
  std::vector<JsonLine> lines;
  OddParts unused;
  std::size_t number = 0;
  bool found = false;
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t end = std::min(bytes.find('\n', begin), bytes.size());
    const std::string_view line = bytes.substr(begin, end - begin);
    ++number;
    begin = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    found = true;
    JsonLine json{fmt::format("{}: line {}", file, number), {}};
    try {
      json.value = parse_mended(line, json.where, odd == nullptr ? unused : *odd);
    } catch (const Error& error) {
      if (odd == nullptr) throw;
      odd->leave_out(error.what());
      continue;
    }
    lines.push_back(std::move(json));
  }
  if (!found) bad_input("{}: found no line, expected one JSON object a line", file);
  return lines;
}

}  // namespace swiftprune
