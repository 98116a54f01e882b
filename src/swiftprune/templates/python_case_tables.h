// What Python's str methods know of single characters beyond utf8proc; made by tools/python_case_tables.py.
#pragma once

#include <array>
#include <vector>

namespace swiftprune::templates {

struct CharacterRange {
  char32_t first, last;
};
struct CharacterImage {
  char32_t from;
  std::array<char32_t, 3> to;  // zeros at the end
};
// In order.
extern const std::vector<CharacterImage> kUpperImages, kTitleImages;
extern const std::vector<CharacterRange> kOtherDigits, kOtherLower, kOtherUpper;

}  // namespace swiftprune::templates
