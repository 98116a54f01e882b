#include "swiftprune/core/git_lfs.h"

#include "swiftprune/core/error.h"

namespace swiftprune {

void refuse_lfs_pointer(std::string_view bytes, const std::string& name) {
  if (bytes.starts_with("version https://git-lfs.github.com/spec/")) {
    bad_input("{}: found a git-lfs pointer, expected the file itself; run 'git lfs pull' in its folder",
              name);
  }
}

}  // namespace swiftprune
