#include "swiftprune/text/component.h"

#include <fmt/ranges.h>

#include "swiftprune/text/unicode.h"

namespace swiftprune::text {

std::string joined_types(const std::vector<std::string_view>& types) {
  return fmt::format("{}", fmt::join(types, ", "));
}

char32_t one_code_point(const JsonField& field) {
  const std::string& text = field.string();
  if (text.empty() || utf8_length(text[0]) != text.size()) field.unexpected("one character");
  return code_point_at(text, 0).value;
}

}  // namespace swiftprune::text
