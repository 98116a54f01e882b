// A file being written, for writers that place tensors in any order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace swiftprune {

// error: errno. Throws Error{kFailure} naming the path.
[[noreturn]] void fail_write(const std::filesystem::path& path, int error);

class OutputFile {
 public:
  // Creates or empties it; with keep_content it must be there. All members throw Error{kFailure} naming the
  // path.
  explicit OutputFile(std::filesystem::path path, bool keep_content = false);
  OutputFile(OutputFile&& other) noexcept;
  ~OutputFile();

  // Sets the file's length, and its room on the disk where the file system can do so.
  void reserve(std::uint64_t bytes);
  // Thread-safe for different ranges.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes) const;
  // Asks the system to begin writing what write_at() left in its cache, so that a later sync waits less.
  void start_writing(std::uint64_t offset, std::uint64_t bytes) const;
  // False when the file is too short.
  bool read_at(std::uint64_t offset, std::span<std::byte> bytes) const;
  void sync_data() const;
  // No other process holds it, and none can until this one ends.
  bool lock() const;

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

// A new file with this content, for what is small and made in one piece. Throws as OutputFile does.
void write_whole(const std::filesystem::path& path, std::string_view content);

// A file or a folder reaches the disk.
void sync_path(const std::filesystem::path& path);
// The new name of what was written whole and then renamed reaches the disk; what is thrown says that it is whole.
void sync_renamed(const std::filesystem::path& path);

}  // namespace swiftprune
