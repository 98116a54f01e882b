// Methods of strings, by name.
#pragma once

#include <string_view>

#include "swiftprune/templates/renderer.h"
#include "swiftprune/templates/value.h"

namespace swiftprune::templates {

struct TextMethod {
  std::string_view name;
  Value (*body)(Renderer&, const Text& text, const Arguments& arguments);  // null: refused
};
const TextMethod* find_text_method(std::string_view name);

// What filters share with the methods. chars: nothing is white space.
enum class Side { kBoth, kLeft, kRight };
std::string_view stripped(std::string_view text, const std::string* chars, Side side);
std::vector<std::string> lines_of(std::string_view text, bool keep_ends);  // str.splitlines
// Every occurrence, or the first `count` (-1: all).
std::string replaced(std::string_view text, std::string_view from, std::string_view to, std::int64_t count);

}  // namespace swiftprune::templates
