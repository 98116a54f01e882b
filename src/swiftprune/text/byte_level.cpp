#include "swiftprune/text/byte_level.h"

#include "swiftprune/text/unicode.h"

namespace swiftprune::text {
namespace {

constexpr char32_t kAlphabetEnd = 0x144;

bool is_printable(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Spelling {
  std::uint8_t size;
  std::array<char, 2> bytes;
};

struct Alphabet {
  std::array<Spelling, 256> spelling{};
  std::array<std::int16_t, kAlphabetEnd> byte{};

  Alphabet() {
    byte.fill(-1);
    char32_t next = 0x100;  // the others in order, from U+0100
    for (unsigned b = 0; b < 256; ++b) {
      const char32_t c = is_printable(b) ? b : next++;
      std::string text;
      append_utf8(text, c);
      spelling[b] = {static_cast<std::uint8_t>(text.size()), {text[0], text.size() > 1 ? text[1] : '\0'}};
      byte[c] = static_cast<std::int16_t>(b);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet table;
  return table;
}

}  // namespace

void append_byte_level(std::string& out, std::string_view bytes) {
  const Alphabet& table = alphabet();
  const std::size_t start = out.size();
  out.resize(start + 2 * bytes.size());
  char* p = out.data() + start;
  for (const char c : bytes) {
    const Spelling& spelling = table.spelling[static_cast<unsigned char>(c)];
    p[0] = spelling.bytes[0];
    p[1] = spelling.bytes[1];
    p += spelling.size;
  }
  out.resize(static_cast<std::size_t>(p - out.data()));
}

std::optional<std::string> byte_level_bytes(std::string_view spelling) {
  const Alphabet& table = alphabet();
  std::string bytes;
  for (std::size_t i = 0; i < spelling.size();) {
    const CodePoint c = code_point_at(spelling, i);
    if (c.value >= kAlphabetEnd || table.byte[c.value] < 0) return std::nullopt;
    bytes += static_cast<char>(table.byte[c.value]);
    i += c.bytes;
  }
  return bytes;
}

}  // namespace swiftprune::text
