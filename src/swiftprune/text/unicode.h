// Unicode as the tokenizers' files mean it: UTF-8, character classes and normal forms. Classes come from
// utf8proc; where the `tokenizers` library (0.23) works with another Unicode version, unicode_tables.cpp
// holds the differences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace swiftprune::text {

// Byte position of the first byte that is not part of well-formed UTF-8 (Unicode 15, table 3-7).
std::optional<std::size_t> invalid_utf8_position(std::string_view bytes);

struct CodePoint {
  char32_t value;
  std::size_t bytes;
};
// text must be well formed and position on a boundary inside it.
CodePoint code_point_at(std::string_view text, std::size_t position);
// Start of the code point that ends at `end` (> 0).
std::size_t previous_boundary(std::string_view text, std::size_t end);
void append_utf8(std::string& out, char32_t code_point);
// Number of bytes of the code point that starts with this byte.
inline std::size_t utf8_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}
// Well-formed text from any bytes: each maximal ill-formed part becomes U+FFFD (Unicode 15, section 3.9).
std::string replace_invalid_utf8(std::string_view bytes);

bool is_whitespace(char32_t c);      // property White_Space
bool is_numeric(char32_t c);         // categories Nd, Nl, No
bool is_punctuation(char32_t c);     // ASCII punctuation and categories P*
bool is_combining_mark(char32_t c);  // categories M*
// Length of the extended grapheme cluster at position (Unicode 15, UAX 29).
std::size_t grapheme_bytes(std::string_view text, std::size_t position);
void append_lowercase(std::string& out, char32_t c);
void append_titlecase(std::string& out, char32_t c);  // single code points only
std::int64_t num_code_points(std::string_view text);  // of well-formed text

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string normalized(std::string_view text, NormalForm form);

}  // namespace swiftprune::text
