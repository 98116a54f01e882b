// A folder that lives as long as the fuzzer, for readers that take files. Where TMPDIR is in memory (/dev/shm), a file
// costs a few system calls.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace swiftprune::fuzz {

class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "swiftprune-fuzz-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) ::abort();
    path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }

  const std::filesystem::path& path() const { return path_; }

  // zeros: that follow the content; they take no memory.
  void write(const char* name, std::string_view content, std::size_t zeros = 0) {
    const auto [file, is_new] = files_.try_emplace(name, -1);
    if (is_new) file->second = ::open((path_ / name).c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    const auto size = static_cast<off_t>(content.size() + zeros);
    // What the last content was longer by, and what it had where zeros are to be, goes.
    if ((zeros > 0 && ::ftruncate(file->second, static_cast<off_t>(content.size())) != 0) ||
        ::pwrite(file->second, content.data(), content.size(), 0) != static_cast<ssize_t>(content.size()) ||
        ::ftruncate(file->second, size) != 0) {
      ::abort();
    }
  }
  void remove(const char* name) {
    const auto file = files_.find(name);
    if (file == files_.end()) return;
    ::close(file->second);
    ::unlink((path_ / name).c_str());
    files_.erase(file);
  }

 private:
  std::filesystem::path path_;
  std::map<std::string, int, std::less<>> files_;  // open
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

// Several files in one input, with a byte that no text has between them; empty when there is none left.
inline std::string_view next_part(std::string_view& rest) {
  const std::size_t end = rest.find('\xFE');
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return part;
}

}  // namespace swiftprune::fuzz
