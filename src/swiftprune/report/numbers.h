// How the reports for people write numbers and dates.
#pragma once

#include <ctime>
#include <optional>
#include <string>

#include <fmt/format.h>

namespace swiftprune {

// A dash for what was not measured.
inline std::string number(const std::optional<double>& value, int digits) {
  return value ? fmt::format("{:.{}f}", *value, digits) : "–";
}

// "2026-01-31", in UTC.
inline std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  return fmt::format("{:04}-{:02}-{:02}", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday);
}

}  // namespace swiftprune
