// What expect() throws: a bug, a broken promise between two parts of the program, never bad input. Nobody but
// a program's outermost door (main, a server's request, an embedder) catches it.
#pragma once

#include <source_location>
#include <stdexcept>
#include <string_view>

namespace swiftprune {

class InternalError : public std::logic_error {
 public:
  InternalError(std::string_view promise, std::source_location where);
};

}  // namespace swiftprune
