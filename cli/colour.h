// Colours of a terminal; plain text where the output is none, where NO_COLOR is set (no-color.org) or TERM is dumb.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <unistd.h>

namespace swiftprune::cli {

enum class Colour { kRed = 31, kGreen = 32, kYellow = 33, kCyan = 36 };

inline bool takes_colour(std::FILE* to) {
  const char* refused = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  return (refused == nullptr || *refused == '\0') && terminal != nullptr &&
         std::string_view(terminal) != "dumb" && ::isatty(::fileno(to)) == 1;
}

inline std::string coloured(std::FILE* to, Colour colour, std::string_view text) {
  if (!takes_colour(to)) return std::string(text);
  return fmt::format("\033[{}m{}\033[0m", static_cast<int>(colour), text);
}

}  // namespace swiftprune::cli
