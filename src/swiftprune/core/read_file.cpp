#include "swiftprune/core/read_file.h"

#include <fstream>
#include <iterator>

#include "swiftprune/core/error.h"

namespace swiftprune {

std::string file_bytes(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in || std::filesystem::is_directory(file))
    bad_input("{}: cannot be opened for reading", file.string());
  std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (in.bad()) bad_input("{}: reading failed", file.string());
  refuse_lfs_pointer(bytes, file.string());
  return bytes;
}

void refuse_lfs_pointer(std::string_view bytes, const std::string& name) {
  if (bytes.starts_with("version https://git-lfs.github.com/spec/")) {
    bad_input("{}: found a git-lfs pointer, expected the file itself; run 'git lfs pull' in its folder",
              name);
  }
}

}  // namespace swiftprune
