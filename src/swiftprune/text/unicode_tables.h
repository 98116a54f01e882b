// Differences between the `tokenizers` library's Unicode and that of utf8proc and PCRE2, written by
// tools/unicode_tables.py. Rows are sorted and do not overlap.
#pragma once

#include <span>

namespace swiftprune::text {

// Code points first..last; what value means is said at the table.
struct CodePointRange {
  char32_t first, last;
  char32_t value;
};

extern const std::span<const CodePointRange> kRegexStandInTable;
extern const std::span<const CodePointRange> kNumericTable;
extern const std::span<const CodePointRange> kPunctuationTable;
extern const std::span<const CodePointRange> kMarkTable;
extern const std::span<const CodePointRange> kLowercaseTable;
extern const std::span<const CodePointRange> kInertTable;

// The row that holds c, or null.
const CodePointRange* find_range(std::span<const CodePointRange> table, char32_t c);

}  // namespace swiftprune::text
