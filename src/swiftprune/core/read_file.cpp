#include "swiftprune/core/read_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "swiftprune/core/error.h"
#include "swiftprune/core/git_lfs.h"

namespace swiftprune {

std::string file_bytes(const std::filesystem::path& file) {
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored))
    bad_input("{}: found a folder, expected a file", file.string());
  errno = 0;
  std::ifstream in(file, std::ios::binary);
  if (!in) bad_input("{}: cannot be read: {}", file.string(), std::strerror(errno));
  // In pieces that grow, since not every file has a size that is known before: pipes, /proc.
  constexpr std::size_t kFirstPiece = 4096;
  std::string bytes;
  while (in) {
    const std::size_t before = bytes.size(), piece = std::max(kFirstPiece, before);
    bytes.resize(before + piece);
    in.read(bytes.data() + before, static_cast<std::streamsize>(piece));
    bytes.resize(before + static_cast<std::size_t>(in.gcount()));
  }
  if (in.bad()) bad_input("{}: reading failed", file.string());
  refuse_lfs_pointer(bytes, file.string());
  return bytes;
}

}  // namespace swiftprune
