// A file's bytes, mapped read-only: pages come from disk when they are touched and can be given back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace swiftprune {

class MappedFile {
 public:
  // Throws Error{kBadInput} when the file is absent, not a regular file or not readable. The file must not
  // shrink while it is mapped (the system answers a read past its new end with SIGBUS).
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }
  // The whole pages inside [begin, end) leave this process's memory until they are read again.
  void release(std::uint64_t begin, std::uint64_t end) const;

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace swiftprune
