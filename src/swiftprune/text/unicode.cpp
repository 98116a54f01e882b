#include "swiftprune/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "swiftprune/core/error.h"
#include "swiftprune/text/unicode_tables.h"

namespace swiftprune::text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Length of the well-formed code point at p, or 0; *valid_prefix: bytes of the maximal ill-formed part.
std::size_t well_formed_length(const unsigned char* p, std::size_t left, std::size_t* ill_formed) {
  *ill_formed = 1;
  const unsigned char lead = p[0];
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  for (std::size_t i = 1; i < length; ++i) {
    if (i >= left || p[i] < low || p[i] > high) return 0;
    low = 0x80;
    high = 0xBF;
    *ill_formed = i + 1;
  }
  return length;
}

bool overridden(std::span<const CodePointRange> table, char32_t c, bool ours) {
  const CodePointRange* row = find_range(table, c);
  return row == nullptr ? ours : row->value != 0;
}

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

bool in_categories(char32_t c, utf8proc_category_t first, utf8proc_category_t last) {
  const utf8proc_category_t value = category(c);
  return value >= first && value <= last;
}

void append_normalized(std::string& out, std::string_view text, NormalForm form) {
  if (text.empty()) return;
  int options = UTF8PROC_STABLE;
  options |= form == NormalForm::kNfc || form == NormalForm::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* result = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &result,
                                             static_cast<utf8proc_option_t>(options));
  if (size < 0) fail(ErrorKind::kFailure, "Unicode normalisation failed: {}", utf8proc_errmsg(size));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
  out.append(reinterpret_cast<const char*>(result), static_cast<std::size_t>(size));
}

}  // namespace

const CodePointRange* find_range(std::span<const CodePointRange> table, char32_t c) {
  const auto row = std::upper_bound(table.begin(), table.end(), c,
                                    [](char32_t x, const CodePointRange& r) { return x < r.first; });
  if (row == table.begin()) return nullptr;
  const CodePointRange& candidate = *std::prev(row);
  return c <= candidate.last ? &candidate : nullptr;
}

std::optional<std::size_t> invalid_utf8_position(std::string_view bytes) {
  const auto* p = reinterpret_cast<const unsigned char*>(bytes.data());
  std::size_t i = 0;
  while (i < bytes.size()) {
    std::uint64_t eight = 0;
    if (bytes.size() - i >= 8) {
      std::memcpy(&eight, p + i, 8);
      if ((eight & 0x8080808080808080U) == 0) {
        i += 8;
        continue;
      }
    }
    std::size_t ill_formed = 0;
    const std::size_t length = well_formed_length(p + i, bytes.size() - i, &ill_formed);
    if (length == 0) return i;
    i += length;
  }
  return std::nullopt;
}

CodePoint code_point_at(std::string_view text, std::size_t position) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data()) + position;
  const auto bits = [](unsigned char byte) { return static_cast<char32_t>(byte & 0x3F); };
  if (p[0] < 0x80) return {p[0], 1};
  if (p[0] < 0xE0) return {static_cast<char32_t>(p[0] & 0x1F) << 6 | bits(p[1]), 2};
  if (p[0] < 0xF0) return {static_cast<char32_t>(p[0] & 0x0F) << 12 | bits(p[1]) << 6 | bits(p[2]), 3};
  return {static_cast<char32_t>(p[0] & 0x07) << 18 | bits(p[1]) << 12 | bits(p[2]) << 6 | bits(p[3]), 4};
}

std::size_t previous_boundary(std::string_view text, std::size_t end) {
  do --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
    return;
  }
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    tail(6);
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    tail(12);
    tail(6);
  }
  tail(0);
}

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const std::size_t good = invalid_utf8_position(bytes).value_or(bytes.size());
    out.append(bytes.substr(0, good));
    bytes.remove_prefix(good);
    if (bytes.empty()) break;
    std::size_t ill_formed = 0;
    well_formed_length(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), &ill_formed);
    out.append(kReplacement);
    bytes.remove_prefix(ill_formed);
  }
  return out;
}

bool is_whitespace(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0D);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return overridden(kNumericTable, c, in_categories(c, UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO));
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) {
    return (c > ' ' && c < '0') || (c > '9' && c < 'A') || (c > 'Z' && c < 'a') || (c > 'z' && c < 0x7F);
  }
  return overridden(kPunctuationTable, c, in_categories(c, UTF8PROC_CATEGORY_PC, UTF8PROC_CATEGORY_PO));
}

bool is_combining_mark(char32_t c) {
  return c >= 0x300 &&
         overridden(kMarkTable, c, in_categories(c, UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_ME));
}

std::size_t grapheme_bytes(std::string_view text, std::size_t position) {
  utf8proc_int32_t state = 0;
  CodePoint current = code_point_at(text, position);
  std::size_t end = position + current.bytes;
  while (end < text.size()) {
    const CodePoint next = code_point_at(text, end);
    if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(current.value),
                                         static_cast<utf8proc_int32_t>(next.value), &state)) {
      break;
    }
    current = next;
    end += next.bytes;
  }
  return end - position;
}

void append_lowercase(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  } else if (c == 0x130) {  // the only letter whose lower-case image is two code points
    out.append("i\xCC\x87");
  } else if (const CodePointRange* row = find_range(kLowercaseTable, c)) {
    append_utf8(out, c + row->value);
  } else {
    append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

void append_titlecase(std::string& out, char32_t c) {
  append_utf8(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
}

std::int64_t num_code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

// Code points below `stable` keep their place and shape in this form and never join what stands before them,
// so only the stretches from the last one before a higher code point up to the next one need work.
std::string normalized(std::string_view text, NormalForm form) {
  const char32_t stable = form == NormalForm::kNfc ? 0x300 : 0x80;
  constexpr char32_t kBeforeFinals = 0x11A7;  // no final of Hangul, though utf8proc swallows it as one
  std::string out;
  out.reserve(text.size() + 16);
  std::size_t copied = 0;   // text[0, copied) is in out
  std::size_t stretch = 0;  // start of the last stable code point seen
  bool in_stretch = false;  // a higher code point stands in text[stretch, i)
  for (std::size_t i = 0; i < text.size();) {
    const CodePoint c = code_point_at(text, i);
    const bool inert =
        c.value >= 0x80 && (c.value == kBeforeFinals || find_range(kInertTable, c.value) != nullptr);
    if (c.value < stable || inert) {
      if (in_stretch) {
        out.append(text, copied, stretch - copied);
        append_normalized(out, text.substr(stretch, i - stretch), form);
        copied = i;
        in_stretch = false;
      }
      stretch = inert ? i + c.bytes : i;
    } else {
      in_stretch = true;
    }
    i += c.bytes;
  }
  if (in_stretch) {
    out.append(text, copied, stretch - copied);
    append_normalized(out, text.substr(stretch), form);
    copied = text.size();
  }
  out.append(text, copied);
  return out;
}

}  // namespace swiftprune::text
