#include "swiftprune/core/python_json.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

namespace swiftprune {

std::optional<std::string> with_spelled_floats(std::string_view text) {
  constexpr std::string_view kNumbers[] = {"-Infinity", "Infinity", "NaN"};
  std::string result;
  bool in_string = false, changed = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view rest = text.substr(at);
    if (in_string && rest[0] == '\\') {
      result += rest.substr(0, 2);
      at += 2;
      continue;
    }
    const auto number = std::find_if(std::begin(kNumbers), std::end(kNumbers),
                                     [&](std::string_view n) { return rest.starts_with(n); });
    if (!in_string && number != std::end(kNumbers)) {
      result += fmt::format(R"({{"__float__": "{}"}})", *number);
      at += number->size();
      changed = true;
      continue;
    }
    if (rest[0] == '"') in_string = !in_string;
    result += rest[0];
    ++at;
  }
  return changed ? std::optional(std::move(result)) : std::nullopt;
}

}  // namespace swiftprune
