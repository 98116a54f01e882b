#include "swiftprune/core/named_numbers.h"

#include <charconv>
#include <cmath>

#include <fmt/ranges.h>

namespace swiftprune {

NamedNumbers parse_named_numbers(std::string_view text) {
  const std::size_t bracket = text.find('(');
  NamedNumbers result{text.substr(0, bracket)};
  if (bracket == std::string_view::npos) return result;
  result.well_formed = text.ends_with(')');
  if (!result.well_formed) return result;
  std::string_view rest = text.substr(bracket + 1, text.size() - bracket - 2);
  while (true) {
    double value = 0.0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    result.well_formed = error == std::errc{};
    if (!result.well_formed) return result;
    result.numbers.push_back(value);
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    if (rest.empty()) return result;
    result.well_formed = rest.front() == ',';
    if (!result.well_formed) return result;
    rest.remove_prefix(1);
  }
}

std::string print_named_numbers(std::string_view name, std::span<const double> numbers) {
  if (numbers.empty()) return std::string(name);
  return fmt::format("{}({})", name, fmt::join(numbers, ","));
}

bool NumberRange::holds(double value) const {
  return value >= min && value <= max && (!whole || value == std::floor(value));
}

}  // namespace swiftprune
