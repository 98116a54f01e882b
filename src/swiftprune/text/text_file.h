// Text files as people have them: UTF-8, plain or compressed with gzip or zstd, told by their first bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace swiftprune {

inline constexpr std::uint64_t kMaxTextBytes = 4'000'000'000;  // after decompression

struct TextFile {
  std::filesystem::path name;  // without .gz or .zst: what its extension tells of the content
  std::string bytes;           // decompressed, without a byte order mark
};

// ".jsonl" of "A.JSONL": what a name says of the content, however it is written.
std::string lower_extension(const std::filesystem::path& file);
// As it is stored. Error{kBadInput} for a file that is not there or cannot be read.
std::string text_file_bytes(const std::filesystem::path& file);
// Error{kBadInput} for what cannot be text and what to do about it (parquet, UTF-16, other archives), and for
// a broken or too large compressed file. Whether the bytes are UTF-8 is not looked at.
TextFile read_text_file(const std::filesystem::path& file);
// Error{kBadInput} with position and line when the bytes are not UTF-8.
void check_utf8(std::string_view bytes, const std::string& file);
// Both.
std::string read_utf8_file(const std::filesystem::path& file);

}  // namespace swiftprune
