#include "swiftprune/core/error.h"

#include "swiftprune/core/internal_error.h"

namespace swiftprune {
namespace {

// The path inside the project: where it was built is nobody's business.
std::string_view in_project(std::string_view file) {
  const std::size_t root = file.rfind("/swiftprune/");
  return root == std::string_view::npos ? file : file.substr(root + 1);
}

}  // namespace

InternalError::InternalError(std::string_view promise, std::source_location where)
    : std::logic_error(fmt::format("internal error at {}:{}: {}; please report",
                                   in_project(where.file_name()), where.line(), promise)) {}

void expect(bool condition, std::string_view promise, std::source_location where) {
  if (!condition) throw InternalError(promise, where);
}

}  // namespace swiftprune
