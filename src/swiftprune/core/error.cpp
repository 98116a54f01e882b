#include "swiftprune/core/error.h"

#include <cstdio>
#include <cstdlib>

namespace swiftprune {

void expect(bool condition, std::string_view promise, std::source_location where) {
  if (condition) return;
  fmt::print(stderr, "swiftprune: internal error at {}:{}: {}\n", where.file_name(), where.line(), promise);
  std::abort();
}

}  // namespace swiftprune
