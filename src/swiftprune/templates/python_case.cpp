#include "swiftprune/templates/python_case.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "swiftprune/templates/python_case_tables.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::templates {
namespace {

constexpr char32_t kCapitalSigma = 0x3A3, kSmallSigma = 0x3C3, kFinalSigma = 0x3C2;

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

bool in_ranges(const std::vector<CharacterRange>& ranges, char32_t c) {
  const auto after =
      std::upper_bound(ranges.begin(), ranges.end(), c,
                       [](char32_t x, const CharacterRange& range) { return x < range.first; });
  return after != ranges.begin() && c <= std::prev(after)->last;
}

void append_image(std::string& out, const std::vector<CharacterImage>& images, char32_t c, char32_t single) {
  const auto found = std::lower_bound(images.begin(), images.end(), c,
                                      [](const CharacterImage& image, char32_t x) { return image.from < x; });
  if (found == images.end() || found->from != c) {
    text::append_utf8(out, single);
    return;
  }
  for (const char32_t part : found->to) {
    if (part != 0) text::append_utf8(out, part);
  }
}

void append_upper(std::string& out, char32_t c) {
  append_image(out, kUpperImages, c,
               static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
}

void append_title(std::string& out, char32_t c) {
  append_image(out, kTitleImages, c,
               static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
}

// Unicode's Case_Ignorable.
bool is_case_ignorable(char32_t c) {
  constexpr std::array<char32_t, 17> kPunctuation = {'\'',   '.',    ':',    0xB7,   0x387,  0x55F,
                                                     0x5F4,  0x2018, 0x2019, 0x2024, 0x2027, 0xFE13,
                                                     0xFE52, 0xFE55, 0xFF07, 0xFF0E, 0xFF1A};
  switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return std::find(kPunctuation.begin(), kPunctuation.end(), c) != kPunctuation.end();
  }
}

// Whether a cased letter stands before `position`, and none behind it: where a sigma is final.
bool ends_word(std::string_view text, std::size_t position) {
  bool before = false;
  for (std::size_t i = position; i > 0 && !before;) {
    i = text::previous_boundary(text, i);
    const char32_t c = text::code_point_at(text, i).value;
    if (is_case_ignorable(c)) continue;
    if (!is_cased(c)) return false;
    before = true;
  }
  if (!before) return false;
  for (std::size_t i = position + text::code_point_at(text, position).bytes; i < text.size();) {
    const auto [c, bytes] = text::code_point_at(text, i);
    i += bytes;
    if (is_case_ignorable(c)) continue;
    return !is_cased(c);
  }
  return true;
}

void append_lower(std::string& out, std::string_view text, std::size_t position, char32_t c) {
  if (c == kCapitalSigma) {
    text::append_utf8(out, ends_word(text, position) ? kFinalSigma : kSmallSigma);
  } else if (c == 0x130) {
    out += "i\xCC\x87";
  } else {
    text::append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

// each(out, position, code point) for every code point.
template <class Each>
std::string mapped(std::string_view text, const Each& each) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t position = 0; position < text.size();) {
    const auto [c, bytes] = text::code_point_at(text, position);
    each(out, position, c);
    position += bytes;
  }
  return out;
}

}  // namespace

std::string upper_case(std::string_view text) {
  return mapped(text, [](std::string& out, std::size_t, char32_t c) { append_upper(out, c); });
}

std::string lower_case(std::string_view text) {
  return mapped(text, [&](std::string& out, std::size_t i, char32_t c) { append_lower(out, text, i, c); });
}

std::string capitalized(std::string_view text) {
  return mapped(text, [&](std::string& out, std::size_t i, char32_t c) {
    i == 0 ? append_title(out, c) : append_lower(out, text, i, c);
  });
}

std::string title_case(std::string_view text) {
  bool in_word = false;
  return mapped(text, [&](std::string& out, std::size_t i, char32_t c) {
    in_word ? append_lower(out, text, i, c) : append_title(out, c);
    in_word = is_cased(c);
  });
}

bool is_lower(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LL || in_ranges(kOtherLower, c); }
bool is_upper(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LU || in_ranges(kOtherUpper, c); }
bool is_title(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LT; }
bool is_cased(char32_t c) { return is_lower(c) || is_upper(c) || is_title(c); }
bool is_decimal(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }
bool is_digit(char32_t c) { return is_decimal(c) || in_ranges(kOtherDigits, c); }

bool is_alphabetic(char32_t c) {
  return category(c) >= UTF8PROC_CATEGORY_LU && category(c) <= UTF8PROC_CATEGORY_LO;
}

bool is_word(char32_t c) {
  return c == '_' || is_alphabetic(c) ||
         (category(c) >= UTF8PROC_CATEGORY_ND && category(c) <= UTF8PROC_CATEGORY_NO);
}

}  // namespace swiftprune::templates
