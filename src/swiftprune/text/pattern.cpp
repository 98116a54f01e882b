#include "swiftprune/text/pattern.h"

namespace swiftprune::text {

Pattern::Pattern(const JsonField& field) {
  if (const auto text = field.find("String")) {
    if (text->string().empty()) text->unexpected("a text that is not empty");
    pattern_ = text->string();
  } else if (const auto regex = field.find("Regex")) {
    pattern_.emplace<Regex>(regex->string(), regex->where());
  } else {
    field.unexpected("{\"String\": ...} or {\"Regex\": ...}");
  }
}

void Pattern::find_all(std::string_view text, MatchScratch& scratch, std::vector<Span>& spans) const {
  if (const Regex* regex = std::get_if<Regex>(&pattern_)) return regex->find_all(text, scratch, spans);
  const std::string& wanted = std::get<std::string>(pattern_);
  std::size_t done = 0;
  for (std::size_t at = text.find(wanted); at != std::string_view::npos; at = text.find(wanted, done)) {
    if (done < at) spans.push_back({done, at, false});
    done = at + wanted.size();
    spans.push_back({at, done, true});
  }
  if (done < text.size()) spans.push_back({done, text.size(), false});
}

std::string Pattern::replaced(std::string_view text, std::string_view replacement, MatchScratch& scratch,
                              std::size_t* first_match) const {
  std::string out;
  if (first_match != nullptr) *first_match = 0;
  if (text.empty()) return out;
  std::vector<Span> spans;
  find_all(text, scratch, spans);
  if (first_match != nullptr && spans.front().is_match) *first_match = spans.front().end;
  out.reserve(text.size() + spans.size() * replacement.size());
  for (const Span& span : spans) {
    out.append(span.is_match ? replacement : text.substr(span.begin, span.end - span.begin));
  }
  return out;
}

}  // namespace swiftprune::text
