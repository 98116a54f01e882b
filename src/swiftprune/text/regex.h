// The regular expressions of tokenizer files. They are written for Oniguruma (Ruby syntax), which the
// `tokenizers` library uses; here PCRE2 runs them, compiled to machine code, after a translation of what the
// two read differently (regex_translation.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace swiftprune::text {

// A part of a text, in bytes.
struct Span {
  std::size_t begin, end;
  bool is_match;
};

// Working memory of matching; one a thread.
class MatchScratch {
 public:
  MatchScratch();
  ~MatchScratch();
  MatchScratch(const MatchScratch&) = delete;
  MatchScratch& operator=(const MatchScratch&) = delete;

 private:
  friend class Regex;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class Regex {
 public:
  // where: file and JSON path, for the message of an invalid pattern (Error{kBadInput}).
  Regex(std::string_view oniguruma_pattern, std::string_view where);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  // Appends the matches and the stretches between them: all of text (well-formed UTF-8), in order. Empty
  // matches are kept (except right after a match), as the library does.
  void find_all(std::string_view text, MatchScratch& scratch, std::vector<Span>& spans) const;
  bool matches_at_start(std::string_view text, MatchScratch& scratch) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Oniguruma's pattern in PCRE2's syntax. Throws std::invalid_argument for what PCRE2 cannot express.
std::string pcre2_pattern(std::string_view oniguruma_pattern);

}  // namespace swiftprune::text
