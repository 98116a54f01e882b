// Preloaded into the program (LD_PRELOAD), it makes a write fail: of the calls that change files under FAULT_FOLDER
// the one numbered FAULT_AT (from 1) fails with FAULT_ERRNO; with ENOSPC, as on a full disk, all that need room do
// from then on. The number of calls seen so far is not told: a run that ends well had fewer.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

std::atomic<long> seen{0};

bool is_watched(const char* path) {
  const char* folder = std::getenv("FAULT_FOLDER");
  return folder != nullptr && path != nullptr && std::strncmp(path, folder, std::strlen(folder)) == 0;
}

bool is_watched(int fd) {
  char link[64], path[PATH_MAX];
  std::snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const ssize_t length = ::readlink(link, path, sizeof(path) - 1);
  if (length < 0) return false;
  path[length] = '\0';
  return is_watched(path);
}

// Counts the call, and sets errno when it is to fail. needs_room: fails on a full disk, too.
template <class Target>
bool fails(Target target, bool needs_room) {
  const int saved = errno;
  if (!is_watched(target)) {
    errno = saved;
    return false;
  }
  const long at = std::atol(std::getenv("FAULT_AT")), number = ++seen;
  const int error = std::atoi(std::getenv("FAULT_ERRNO"));
  const bool is_full = error == ENOSPC && number > at && needs_room;
  errno = number == at || is_full ? error : saved;
  return number == at || is_full;
}

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

#define NEXT(name) static auto* const real = next<decltype(name)>(#name)

extern "C" {

ssize_t write(int fd, const void* data, size_t size) {
  NEXT(write);
  return fails(fd, true) ? -1 : real(fd, data, size);
}
ssize_t writev(int fd, const iovec* parts, int count) {
  NEXT(writev);
  return fails(fd, true) ? -1 : real(fd, parts, count);
}
ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  NEXT(pwrite);
  return fails(fd, true) ? -1 : real(fd, data, size, offset);
}
ssize_t pwrite64(int fd, const void* data, size_t size, off64_t offset) {
  NEXT(pwrite64);
  return fails(fd, true) ? -1 : real(fd, data, size, offset);
}
ssize_t sendfile(int to, int from, off_t* offset, size_t count) {
  static auto* const real = next<ssize_t(int, int, off_t*, size_t)>("sendfile");
  return fails(to, true) ? -1 : real(to, from, offset, count);
}
ssize_t copy_file_range(int from, off64_t* from_at, int to, off64_t* to_at, size_t size, unsigned int flags) {
  NEXT(copy_file_range);
  return fails(to, true) ? -1 : real(from, from_at, to, to_at, size, flags);
}
int fallocate(int fd, int mode, off_t offset, off_t size) {
  NEXT(fallocate);
  return fails(fd, true) ? -1 : real(fd, mode, offset, size);
}
int fallocate64(int fd, int mode, off64_t offset, off64_t size) {
  NEXT(fallocate64);
  return fails(fd, true) ? -1 : real(fd, mode, offset, size);
}
int ftruncate(int fd, off_t size) noexcept {
  NEXT(ftruncate);
  return fails(fd, true) ? -1 : real(fd, size);
}
int ftruncate64(int fd, off64_t size) noexcept {
  NEXT(ftruncate64);
  return fails(fd, true) ? -1 : real(fd, size);
}
int fsync(int fd) {
  NEXT(fsync);
  return fails(fd, false) ? -1 : real(fd);
}
int fdatasync(int fd) {
  NEXT(fdatasync);
  return fails(fd, false) ? -1 : real(fd);
}
int rename(const char* from, const char* to) noexcept {
  NEXT(rename);
  return fails(to, false) ? -1 : real(from, to);
}
int mkdir(const char* path, mode_t mode) noexcept {
  NEXT(mkdir);
  return fails(path, true) ? -1 : real(path, mode);
}
char* mkdtemp(char* path) noexcept {
  NEXT(mkdtemp);
  return fails(static_cast<const char*>(path), true) ? nullptr : real(path);
}
int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  static auto* const real = next<int(const char*, int, ...)>("open");
  return (flags & O_CREAT) != 0 && fails(path, true) ? -1 : real(path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  static auto* const real = next<int(const char*, int, ...)>("open64");
  return (flags & O_CREAT) != 0 && fails(path, true) ? -1 : real(path, flags, mode);
}

}  // extern "C"
