// A folder that lives as long as the fuzzer, for readers that take files.
#pragma once

#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace swiftprune::fuzz {

inline const std::filesystem::path& folder() {
  static const std::filesystem::path path = [] {
    std::string name = (std::filesystem::temp_directory_path() / "swiftprune-fuzz-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) ::abort();
    return name;
  }();
  return path;
}

inline void write(const char* name, std::string_view content) {
  std::ofstream(folder() / name, std::ios::binary) << content;
}

inline std::string_view text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Several files in one input, with a byte that no text has between them; empty when there is none left.
inline std::string_view next_part(std::string_view& rest) {
  const std::size_t end = rest.find('\xFE');
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return part;
}

}  // namespace swiftprune::fuzz
