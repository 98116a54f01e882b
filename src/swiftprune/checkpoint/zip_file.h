// The directory of a zip archive whose entries are stored as they are: how PyTorch keeps tensors since 1.6.
// An own reader, because the bytes of an entry are to be mapped where they lie, which zip libraries do not
// tell. Layout: APPNOTE.TXT of PKWARE, 4.3 (zip64 included).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace swiftprune {

struct ZipEntry {
  std::string name;
  std::uint64_t begin = 0;  // of its bytes, from the start of the file
  std::uint64_t end = 0;
};

bool looks_like_zip(std::span<const std::byte> file);

// Throws Error{kBadInput} that starts with `name`: for a broken or truncated directory, an entry outside the
// file, a name twice, and entries that are compressed or encrypted.
std::vector<ZipEntry> parse_zip(std::span<const std::byte> file, const std::string& name);

}  // namespace swiftprune
