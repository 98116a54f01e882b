// A folder of its own for one test, removed at its end.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include "swiftprune/core/error.h"
#include "swiftprune/core/temporary_folder.h"

namespace swiftprune::test {

class TempDir {
 public:
  const std::filesystem::path& path() const { return folder_.path(); }

 private:
  TemporaryFolder folder_ = make_temporary_folder("test", "a test");
};

inline void write_text(const std::filesystem::path& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  expect(file.good(), "a test file that can be written");
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  expect(file.good(), "a test file that can be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace swiftprune::test
