// What reads files, for the fuzzers, in place of core/read_file.cpp and checkpoint/mapped_file.cpp: only names are on the
// disk, so a round costs no system call a file, and behind the last byte is memory that the address sanitizer knows to be
// nobody's, where a mapping would go on to the end of its page.
#include <sanitizer/asan_interface.h>

#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <new>
#include <utility>

#include "fuzz_folder.h"
#include "swiftprune/checkpoint/mapped_file.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/git_lfs.h"
#include "swiftprune/core/read_file.h"

namespace swiftprune {
namespace {

constexpr std::align_val_t kAlignment{64};  // of mappings, as far as any reader counts on it

struct Free {
  void operator()(std::byte* p) const { ::operator delete[](p, kAlignment); }
};

class Content {
 public:
  Content() = default;
  Content(const Content&) = delete;
  Content& operator=(const Content&) = delete;
  ~Content() { allow(); }

  std::span<const std::byte> bytes() const { return {memory_.get(), size_}; }
  void set(std::string_view content, std::size_t zeros) {
    allow();
    const std::size_t size = content.size() + zeros;
    if (size >= capacity_) {  // an empty file has memory, too
      capacity_ = size + size / 2 + 64;
      memory_.reset(static_cast<std::byte*>(::operator new[](capacity_, kAlignment)));
      std::memset(memory_.get(), 0, capacity_);
      text_ = 0;
    }
    if (text_ > content.size()) std::memset(memory_.get() + content.size(), 0, text_ - content.size());
    std::memcpy(memory_.get(), content.data(), content.size());
    size_ = size;
    text_ = content.size();
    ASAN_POISON_MEMORY_REGION(memory_.get() + size_, capacity_ - size_);
  }

 private:
  void allow() const { ASAN_UNPOISON_MEMORY_REGION(memory_.get(), capacity_); }

  std::unique_ptr<std::byte[], Free> memory_;
  std::size_t capacity_ = 0, size_ = 0, text_ = 0;  // zeros from text_ on
};

std::map<std::string, Content, std::less<>>& contents() {
  static std::map<std::string, Content, std::less<>> all;
  return all;
}

std::span<const std::byte> bytes_of(const std::filesystem::path& file) {
  const auto found = contents().find(file.native());
  if (found == contents().end()) bad_input("{}: no such file", file.string());
  return found->second.bytes();
}

}  // namespace

void fuzz::write_file(const std::filesystem::path& file, std::string_view content, std::size_t zeros) {
  const auto [place, is_new] = contents().try_emplace(file.native());
  if (is_new) std::ofstream name(file);
  place->second.set(content, zeros);
}

std::string file_bytes(const std::filesystem::path& file) {
  const auto bytes = bytes_of(file);
  std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  refuse_lfs_pointer(text, file.string());
  return text;
}

MappedFile::MappedFile(const std::filesystem::path& path) : bytes_(bytes_of(path)) {}
MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}
MappedFile::~MappedFile() = default;
void MappedFile::release(std::uint64_t begin, std::uint64_t end) const {
  expect(begin <= end && end <= bytes_.size(), "release: a range inside the file");
}
const char* file_mapped_at(const void*) noexcept { return nullptr; }

}  // namespace swiftprune
