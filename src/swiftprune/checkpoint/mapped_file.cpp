#include "swiftprune/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

// Read by signal handlers, so without locks: a mapping's place is taken by its begin, given free last of all, and its
// path is a copy that is never freed while it is there.
struct Mapping {
  std::atomic<std::uintptr_t> begin{0}, end{0};
  std::atomic<char*> path{nullptr};
};
std::array<Mapping, 1024> mappings;

void remember(std::span<const std::byte> bytes, const std::string& path) {
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data());
  for (Mapping& mapping : mappings) {
    std::uintptr_t free = 0;
    if (!mapping.begin.compare_exchange_strong(free, begin)) continue;
    mapping.path = ::strdup(path.c_str());
    mapping.end = begin + bytes.size();
    return;
  }
}

void forget(std::span<const std::byte> bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data());
  for (Mapping& mapping : mappings) {
    if (mapping.begin != begin) continue;
    mapping.end = 0;
    std::free(mapping.path.exchange(nullptr));
    mapping.begin = 0;
    return;
  }
}

}  // namespace

const char* file_mapped_at(const void* address) noexcept {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  for (const Mapping& mapping : mappings) {
    if (mapping.begin <= at && at < mapping.end) return mapping.path;
  }
  return nullptr;
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  // Not blocking on a pipe: what is not a regular file is refused below.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) bad_input("{}: {}", path.string(), std::strerror(errno));
  struct stat status {};
  if (::fstat(file.fd, &status) != 0) bad_input("{}: {}", path.string(), std::strerror(errno));
  if (!S_ISREG(status.st_mode)) {
    bad_input("{}: found {}, expected a file", path.string(),
              S_ISDIR(status.st_mode) ? "a folder" : "a device or pipe");
  }
  if (status.st_size == 0) return;
  const auto size = static_cast<std::size_t>(status.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED) bad_input("{}: cannot be mapped: {}", path.string(), std::strerror(errno));
  bytes_ = {static_cast<const std::byte*>(data), size};
  remember(bytes_, path.string());
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (bytes_.empty()) return;
  forget(bytes_);
  ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::release(std::uint64_t begin, std::uint64_t end) const {
  expect(begin <= end && end <= bytes_.size(), "release: a range inside the file");
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t first = (begin + page - 1) / page * page;
  const std::uint64_t last = end == bytes_.size() ? end : end / page * page;
  if (first >= last) return;
  // A hint only: without it the pages stay, and nothing else changes.
  ::madvise(const_cast<std::byte*>(bytes_.data()) + first, last - first, MADV_DONTNEED);
}

}  // namespace swiftprune
