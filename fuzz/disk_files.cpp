#include <fstream>

#include "fuzz_folder.h"

namespace swiftprune::fuzz {

void write_file(const std::filesystem::path& file, std::string_view content, std::size_t zeros) {
  std::ofstream(file, std::ios::binary) << content;
  if (zeros > 0) std::filesystem::resize_file(file, content.size() + zeros);
}

}  // namespace swiftprune::fuzz
