#include "swiftprune/checkpoint/output_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace fs = std::filesystem;

void fail_write(const fs::path& path, int error) {
  if (error == ENOSPC || error == EDQUOT) {
    fail(ErrorKind::kFailure, "{}: the disk is full; free some space or choose another folder",
         path.string());
  }
  fail(ErrorKind::kFailure, "{}: cannot be written: {}", path.string(), std::strerror(error));
}

OutputFile::OutputFile(fs::path path, bool keep_content)
    : path_(std::move(path)),
      fd_(::open(path_.c_str(), O_RDWR | O_CLOEXEC | (keep_content ? 0 : O_CREAT | O_TRUNC), 0666)) {
  if (fd_ < 0) fail_write(path_, errno);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
}

void OutputFile::reserve(std::uint64_t bytes) {
  if (bytes == 0) return;
  const auto size = static_cast<off_t>(bytes);
  if (::fallocate(fd_, 0, 0, size) != 0) {
    if (errno != EOPNOTSUPP && errno != ENOSYS) fail_write(path_, errno);
    if (::ftruncate(fd_, size) != 0) fail_write(path_, errno);
  }
}

void OutputFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_write(path_, errno);
    if (written == 0) fail_write(path_, EIO);  // would go on for ever
    offset += static_cast<std::uint64_t>(written);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void OutputFile::start_writing([[maybe_unused]] std::uint64_t offset,
                               [[maybe_unused]] std::uint64_t bytes) const {
#ifdef SYNC_FILE_RANGE_WRITE
  (void)::sync_file_range(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes), SYNC_FILE_RANGE_WRITE);
#endif
}

bool OutputFile::read_at(std::uint64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t found = ::pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (found < 0 && errno == EINTR) continue;
    if (found <= 0) return false;
    offset += static_cast<std::uint64_t>(found);
    bytes = bytes.subspan(static_cast<std::size_t>(found));
  }
  return true;
}

void OutputFile::sync_data() const {
  if (::fdatasync(fd_) != 0) fail_write(path_, errno);
}

bool OutputFile::lock() const { return ::flock(fd_, LOCK_EX | LOCK_NB) == 0; }

void write_whole(const fs::path& path, std::string_view content) {
  OutputFile(path).write_at(0, std::as_bytes(std::span(content)));
}

void sync_renamed(const fs::path& path) {
  try {
    sync_path(path.parent_path());
  } catch (const Error& error) {
    fail(ErrorKind::kFailure, "{}: is whole, but may not outlast a power failure: {}", path.string(),
         error.what());
  }
}

void sync_path(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_write(path, errno);
  // EINVAL: a file system that cannot sync a folder.
  const int error = ::fsync(fd) == 0 || errno == EINVAL ? 0 : errno;
  ::close(fd);
  if (error != 0) fail_write(path, error);
}

}  // namespace swiftprune
