#include "swiftprune/tensor/large_buffer.h"

#include <sys/mman.h>

#include <cstdint>
#include <deque>
#include <mutex>
#include <new>

namespace swiftprune {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kMaxKept = std::size_t{64} << 20;  // bytes

std::size_t rounded(std::size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

// Whole huge pages, aligned: more is mapped than needed and the ends are given back.
void* map_pages(std::size_t size) {
  void* const mapped =
      ::mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* const begin = static_cast<std::byte*>(mapped);
  const std::size_t before = (kHugePage - reinterpret_cast<std::uintptr_t>(begin) % kHugePage) % kHugePage;
  if (before > 0) ::munmap(begin, before);
  if (before < kHugePage) ::munmap(begin + before + size, kHugePage - before);
  ::madvise(begin + before, size, MADV_HUGEPAGE);
  return begin + before;
}

class Kept {
 public:
  void* take(std::size_t size) {
    const std::lock_guard lock(mutex_);
    for (auto it = buffers_.rbegin(); it != buffers_.rend(); ++it) {
      if (it->size != size) continue;
      void* const buffer = it->buffer;
      buffers_.erase(std::next(it).base());
      bytes_ -= size;
      return buffer;
    }
    return nullptr;
  }
  void put(void* buffer, std::size_t size) {
    if (size > kMaxKept) {
      ::munmap(buffer, size);
      return;
    }
    const std::lock_guard lock(mutex_);
    buffers_.push_back({buffer, size});
    bytes_ += size;
    while (bytes_ > kMaxKept) {
      ::munmap(buffers_.front().buffer, buffers_.front().size);
      bytes_ -= buffers_.front().size;
      buffers_.pop_front();
    }
  }

 private:
  struct Buffer {
    void* buffer;
    std::size_t size;
  };
  std::mutex mutex_;
  std::deque<Buffer> buffers_;  // the oldest first
  std::size_t bytes_ = 0;
};

// Never destroyed: matrices of static lifetime may end later.
Kept& kept() {
  static Kept& instance = *new Kept;
  return instance;
}

}  // namespace

void* allocate_large(std::size_t bytes) {
  const std::size_t size = rounded(bytes);
  if (void* const buffer = kept().take(size)) return buffer;
  return map_pages(size);
}

void free_large(void* buffer, std::size_t bytes) { kept().put(buffer, rounded(bytes)); }

}  // namespace swiftprune
