#include "swiftprune/checkpoint/zip_file.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

constexpr std::uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50, kEnd = 0x06054b50,
                        kEnd64 = 0x06064b50, kEnd64Locator = 0x07064b50;
constexpr std::uint64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kEnd64Bytes = 56,
                        kLocatorBytes = 20;
constexpr std::uint64_t kMaxComment = 0xFFFF, kMaxEntries = 1'000'000;
constexpr std::uint32_t kIn64 = 0xFFFFFFFF;  // "see the zip64 field"
constexpr std::uint16_t kZip64Field = 1, kEncrypted = 1;

class ZipReader {
 public:
  ZipReader(std::span<const std::byte> file, const std::string& name) : file_(file), name_(name) {}

  std::vector<ZipEntry> read() {
    find_directory();
    std::vector<ZipEntry> entries;
    std::unordered_set<std::string> names;
    std::uint64_t at = directory_begin_;
    for (std::uint64_t i = 0; i < num_entries_; ++i) {
      entries.push_back(read_entry(at));
      if (!names.insert(entries.back().name).second) {
        bad_input("{}: found the entry {} twice", name_, json_quoted(entries.back().name));
      }
    }
    return entries;
  }

 private:
  // The number at a position; the file must hold it.
  template <class T>
  T number(std::uint64_t at) const {
    T value{};
    if (at > file_.size() || sizeof(T) > file_.size() - at) {
      bad_input("{}: found a zip archive that ends at byte {}, expected more; it is cut short", name_,
                file_.size());
    }
    std::memcpy(&value, file_.data() + at, sizeof(T));
    return value;
  }

  void find_directory() {
    if (file_.size() < kEndBytes)
      bad_input("{}: found {} bytes, expected a zip archive", name_, file_.size());
    const std::uint64_t last = file_.size() - kEndBytes;
    const std::uint64_t first = last - std::min(last, kMaxComment);
    std::uint64_t end = last;
    while (number<std::uint32_t>(end) != kEnd ||
           number<std::uint16_t>(end + 20) != file_.size() - end - kEndBytes) {
      if (end == first) bad_input("{}: found no end of a zip archive; the file is cut short", name_);
      --end;
    }
    num_entries_ = number<std::uint16_t>(end + 10);
    std::uint64_t bytes = number<std::uint32_t>(end + 12);
    directory_begin_ = number<std::uint32_t>(end + 16);
    if (end >= kLocatorBytes && number<std::uint32_t>(end - kLocatorBytes) == kEnd64Locator) {
      end = number<std::uint64_t>(end - kLocatorBytes + 8);
      if (end > file_.size() || kEnd64Bytes > file_.size() - end || number<std::uint32_t>(end) != kEnd64) {
        bad_input("{}: found no zip64 directory at byte {}, where the archive places it", name_, end);
      }
      num_entries_ = number<std::uint64_t>(end + 32);
      bytes = number<std::uint64_t>(end + 40);
      directory_begin_ = number<std::uint64_t>(end + 48);
    }
    if (directory_begin_ > file_.size() || bytes > file_.size() - directory_begin_ ||
        num_entries_ > bytes / kCentralBytes || num_entries_ > kMaxEntries) {
      bad_input("{}: found {} entries in a zip directory of {} bytes at byte {}; the archive is broken",
                name_, num_entries_, bytes, directory_begin_);
    }
    directory_end_ = directory_begin_ + bytes;
  }

  ZipEntry read_entry(std::uint64_t& at) const {
    if (directory_end_ - at < kCentralBytes || number<std::uint32_t>(at) != kCentralHeader) {
      bad_input("{}: found no entry at byte {} of the zip directory; the archive is broken", name_, at);
    }
    const auto flags = number<std::uint16_t>(at + 8), method = number<std::uint16_t>(at + 10);
    std::uint64_t stored = number<std::uint32_t>(at + 20), size = number<std::uint32_t>(at + 24);
    const std::uint64_t name_bytes = number<std::uint16_t>(at + 28),
                        extra_bytes = number<std::uint16_t>(at + 30),
                        comment_bytes = number<std::uint16_t>(at + 32);
    std::uint64_t local = number<std::uint32_t>(at + 42);
    if (name_bytes + extra_bytes + comment_bytes > directory_end_ - at - kCentralBytes) {
      bad_input("{}: found an entry at byte {} that leaves the zip directory", name_, at);
    }
    ZipEntry entry;
    entry.name.assign(reinterpret_cast<const char*>(file_.data()) + at + kCentralBytes, name_bytes);
    const std::uint64_t extra = at + kCentralBytes + name_bytes;
    read_zip64(extra, extra + extra_bytes, entry.name, size, stored, local);
    at = extra + extra_bytes + comment_bytes;
    if ((flags & kEncrypted) != 0 || method != 0 || stored != size) {
      bad_input("{}: entry {}: found {}, expected entries stored as they are, as torch.save writes them",
                name_, json_quoted(entry.name),
                (flags & kEncrypted) != 0 ? "an encrypted one" : "a compressed one");
    }
    place(local, size, entry);
    return entry;
  }

  // The extra field replaces those numbers that do not fit in 32 bits, in this order.
  void read_zip64(std::uint64_t at, std::uint64_t end, const std::string& entry, std::uint64_t& size,
                  std::uint64_t& stored, std::uint64_t& local) const {
    while (end - at >= 4) {
      const auto id = number<std::uint16_t>(at);
      const std::uint64_t bytes = number<std::uint16_t>(at + 2);
      at += 4;
      if (bytes > end - at) break;
      if (id == kZip64Field) {
        std::uint64_t from = at;
        for (std::uint64_t* value : {&size, &stored, &local}) {
          if (*value != kIn64) continue;
          if (at + bytes - from < 8) {
            bad_input("{}: entry {}: found a zip64 field of {} bytes, expected more", name_,
                      json_quoted(entry), bytes);
          }
          *value = number<std::uint64_t>(from);
          from += 8;
        }
      }
      at += bytes;
    }
  }

  void place(std::uint64_t local, std::uint64_t size, ZipEntry& entry) const {
    if (local > file_.size() || kLocalBytes > file_.size() - local ||
        number<std::uint32_t>(local) != kLocalHeader) {
      bad_input("{}: entry {}: found no header at byte {}, where the directory places it", name_,
                json_quoted(entry.name), local);
    }
    const std::uint64_t skipped =
        kLocalBytes + number<std::uint16_t>(local + 26) + number<std::uint16_t>(local + 28);
    if (skipped > file_.size() - local || size > file_.size() - local - skipped) {
      bad_input("{}: entry {}: found {} bytes from byte {} on, but the file ends at {}", name_,
                json_quoted(entry.name), size, local, file_.size());
    }
    entry.begin = local + skipped;
    entry.end = entry.begin + size;
  }

  std::span<const std::byte> file_;
  const std::string& name_;
  std::uint64_t num_entries_ = 0, directory_begin_ = 0, directory_end_ = 0;
};

}  // namespace

bool looks_like_zip(std::span<const std::byte> file) {
  std::uint32_t signature = 0;
  if (file.size() < sizeof(signature)) return false;
  std::memcpy(&signature, file.data(), sizeof(signature));
  return signature == kLocalHeader || signature == kEnd;
}

std::vector<ZipEntry> parse_zip(std::span<const std::byte> file, const std::string& name) {
  return ZipReader(file, name).read();
}

}  // namespace swiftprune
