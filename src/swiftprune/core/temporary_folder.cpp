#include "swiftprune/core/temporary_folder.h"

#include <stdlib.h>

#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace fs = std::filesystem;

TemporaryFolder::~TemporaryFolder() {
  if (path_.empty()) return;
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

TemporaryFolder make_temporary_folder(std::string_view kind, std::string_view content, std::string_view hint,
                                      const fs::path& parent) {
  std::error_code error;
  const fs::path place = parent.empty() ? fs::temp_directory_path(error) : parent;
  std::string name = (place / fmt::format("swiftprune-{}-XXXXXX", kind)).string();
  if (error || ::mkdtemp(name.data()) == nullptr) {
    fail(ErrorKind::kFailure, "{}: the folder for {} cannot be made ({}); {} names another place",
         place.string(), content, error ? error.message() : std::strerror(errno), hint);
  }
  return TemporaryFolder(name);
}

}  // namespace swiftprune
