#include "swiftprune/api/option_values.h"

#include <algorithm>

#include <fmt/ranges.h>

namespace swiftprune {

std::string OptionRange::text() const {
  if (is_bounded()) return fmt::format("{} to {}", least, most);
  return above ? fmt::format("more than {}", least) : fmt::format("{} or more", least);
}

void check_value(std::string_view option, const std::string& found, OptionWords words) {
  if (std::ranges::find(words, found) == words.end())
    bad_usage("{}: found '{}', expected one of {}", option, found, fmt::join(words, ", "));
}

void check_if_given(std::string_view option, const std::string& found, OptionWords words) {
  if (!found.empty()) check_value(option, found, words);
}

}  // namespace swiftprune
