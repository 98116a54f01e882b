// The "pattern" of Split and Replace: a fixed string or a regular expression.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "swiftprune/text/component.h"
#include "swiftprune/text/regex.h"

namespace swiftprune::text {

class Pattern {
 public:
  // field: {"String": text} or {"Regex": pattern}.
  explicit Pattern(const JsonField& field);
  Pattern(std::string_view regex, std::string_view where) : pattern_(Regex(regex, where)) {}

  // As Regex::find_all.
  void find_all(std::string_view text, MatchScratch& scratch, std::vector<Span>& spans) const;
  // text with every match replaced; first_match gets the end of a match that the text begins with, else 0.
  std::string replaced(std::string_view text, std::string_view replacement, MatchScratch& scratch,
                       std::size_t* first_match = nullptr) const;

 private:
  std::variant<std::string, Regex> pattern_;
};

}  // namespace swiftprune::text
