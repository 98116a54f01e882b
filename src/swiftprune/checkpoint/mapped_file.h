// A file's bytes, mapped read-only: pages come from disk when they are touched and can be given back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace swiftprune {

class MappedFile {
 public:
  // Throws Error{kBadInput} when the file is absent, not a regular file or not readable. When the file shrinks while
  // it is mapped, or its disk fails, the system answers a read with SIGBUS: file_mapped_at() then tells its name.
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

// The path of the file whose bytes are mapped at this address, or null: for handlers of SIGBUS, so async-signal-safe.
// Of more than a thousand files at once the last ones are not known.
const char* file_mapped_at(const void* address) noexcept;

}  // namespace swiftprune
