#include "swiftprune/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <stdexcept>

#include "swiftprune/core/error.h"
#include "swiftprune/text/unicode.h"
#include "swiftprune/text/unicode_tables.h"

namespace swiftprune::text {
namespace {

constexpr std::size_t kJitStackStart = 32 * 1024;
constexpr std::size_t kJitStackMax = 64 * 1024 * 1024;

template <auto free>
struct Free {
  template <class T>
  void operator()(T* p) const {
    free(p);
  }
};
using Code = std::unique_ptr<pcre2_code, Free<pcre2_code_free>>;

std::string error_text(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

// Whether some code point of this block of 256 has a stand-in.
const std::array<bool, 0x1100>& stand_in_blocks() {
  static const std::array<bool, 0x1100> blocks = [] {
    std::array<bool, 0x1100> marked{};
    for (const CodePointRange& row : kRegexStandInTable) {
      for (char32_t block = row.first >> 8; block <= row.last >> 8; ++block) marked[block] = true;
    }
    return marked;
  }();
  return blocks;
}

const CodePointRange* stand_in(char32_t c) {
  return stand_in_blocks()[c >> 8] ? find_range(kRegexStandInTable, c) : nullptr;
}

bool has_three_byte_code_points(std::string_view text) {
  unsigned char found = 0;
  for (const char c : text) found |= static_cast<unsigned char>(static_cast<unsigned char>(c) >= 0xE0);
  return found != 0;
}

// The text with stand-ins for code points that PCRE2's older Unicode does not know, byte for byte as long;
// `out` is used only when there are any.
std::string_view with_stand_ins(std::string_view text, std::string& out) {
  if (!has_three_byte_code_points(text)) return text;
  bool copied = false;
  for (std::size_t i = 0; i < text.size();) {
    const CodePoint c = code_point_at(text, i);
    if (const CodePointRange* row = stand_in(c.value)) {
      if (!copied) out.assign(text);
      copied = true;
      std::string bytes;
      append_utf8(bytes, row->value);
      expect(bytes.size() == c.bytes, "a stand-in is as long as its code point");
      out.replace(i, c.bytes, bytes);
    }
    i += c.bytes;
  }
  return copied ? std::string_view(out) : text;
}

}  // namespace

struct MatchScratch::Impl {
  // One pair: only the whole match is asked for.
  std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>> data{pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>> context{
      pcre2_match_context_create(nullptr)};
  std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack_free>> stack{
      pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr)};
  std::string text;
};

MatchScratch::MatchScratch() : impl_(std::make_unique<Impl>()) {
  if (!impl_->data || !impl_->context || !impl_->stack) throw std::bad_alloc();
  pcre2_jit_stack_assign(impl_->context.get(), nullptr, impl_->stack.get());
}
MatchScratch::~MatchScratch() = default;

struct Regex::Impl {
  Code code;
  bool jit = false;
  std::string where;

  // End and begin of the next match at or after `from`; false: none.
  bool next(std::string_view text, std::size_t from, MatchScratch::Impl& scratch, std::size_t* begin,
            std::size_t* end) const {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    const int rc = jit ? pcre2_jit_match(code.get(), subject, text.size(), from, 0, scratch.data.get(),
                                         scratch.context.get())
                       : pcre2_match(code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                                     scratch.data.get(), scratch.context.get());
    if (rc == PCRE2_ERROR_NOMATCH) return false;
    if (rc < 0) bad_input("{}: the pattern failed on a text: {}", where, error_text(rc));
    const PCRE2_SIZE* pair = pcre2_get_ovector_pointer(scratch.data.get());
    *begin = pair[0];
    *end = pair[1];
    return true;
  }
};

Regex::Regex(std::string_view oniguruma_pattern, std::string_view where) : impl_(std::make_unique<Impl>()) {
  impl_->where = where;
  std::string pattern;
  try {
    pattern = pcre2_pattern(oniguruma_pattern);
  } catch (const std::invalid_argument& problem) {
    bad_input("{}: found the pattern \"{}\": {}", where, oniguruma_pattern, problem.what());
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                                  &offset, nullptr));
  if (!impl_->code) {
    bad_input("{}: found the pattern \"{}\", expected a regular expression: {} at position {} of \"{}\"",
              where, oniguruma_pattern, error_text(error), offset, pattern);
  }
  impl_->jit = pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE) == 0;
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

void Regex::find_all(std::string_view text, MatchScratch& scratch, std::vector<Span>& spans) const {
  const std::string_view subject = with_stand_ins(text, scratch.impl_->text);
  std::size_t from = 0;  // where the next search starts
  std::size_t done = 0;  // end of the last match
  bool matched = false;
  while (from <= subject.size()) {
    std::size_t begin = 0;
    std::size_t end = 0;
    if (!impl_->next(subject, from, *scratch.impl_, &begin, &end)) break;
    if (begin == end && matched && done == end) {
      from += from < subject.size() ? utf8_length(subject[from]) : 1;
      continue;
    }
    if (done != begin) spans.push_back({done, begin, false});
    spans.push_back({begin, end, true});
    from = done = end;
    matched = true;
  }
  if (done != subject.size()) spans.push_back({done, subject.size(), false});
}

bool Regex::matches_at_start(std::string_view text, MatchScratch& scratch) const {
  std::size_t begin = 0;
  std::size_t end = 0;
  return impl_->next(with_stand_ins(text, scratch.impl_->text), 0, *scratch.impl_, &begin, &end) &&
         begin == 0;
}

}  // namespace swiftprune::text
