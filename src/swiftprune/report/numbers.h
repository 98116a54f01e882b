// How the reports for people write numbers.
#pragma once

#include <optional>
#include <string>

#include <fmt/format.h>

namespace swiftprune {

// A dash for what was not measured.
inline std::string number(const std::optional<double>& value, int digits) {
  return value ? fmt::format("{:.{}f}", *value, digits) : "–";
}

}  // namespace swiftprune
