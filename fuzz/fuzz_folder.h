// A folder that lives as long as the fuzzer, for readers that take files. The fuzzers' files have their contents in memory
// (memory_files.cpp); where the same functions run as tests they lie on the disk (disk_files.cpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "swiftprune/core/temporary_folder.h"

namespace swiftprune::fuzz {

// The content, and zeros behind it.
void write_file(const std::filesystem::path& file, std::string_view content, std::size_t zeros);

class Folder {
 public:
  const std::filesystem::path& path() const { return folder_.path(); }
  void write(const char* name, std::string_view content, std::size_t zeros = 0) const {
    write_file(path() / name, content, zeros);
  }

 private:
  TemporaryFolder folder_ = make_temporary_folder("fuzz", "a fuzzer");
};

inline Folder& the_folder() {
  static Folder folder;
  return folder;
}
inline const std::filesystem::path& folder() { return the_folder().path(); }
inline void write(const char* name, std::string_view content) { the_folder().write(name, content); }

inline std::string_view text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Between the files of one input: bytes that no text has, and binary files hardly.
constexpr std::string_view kBetween = "\xFE\xFE";

// The next of them; empty when there is none left.
inline std::string_view next_part(std::string_view& rest) {
  const std::size_t end = rest.find(kBetween);
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + kBetween.size());
  return part;
}

}  // namespace swiftprune::fuzz
