#include "swiftprune/text/split_text.h"

namespace swiftprune::text {
namespace {

// Joins a match with its neighbour before it (in the order in which the spans come): `starts_new` says
// whether a span opens a new part.
template <class StartsNew>
std::vector<Span> joined(const std::vector<Span>& spans, const StartsNew& starts_new) {
  std::vector<Span> parts;
  bool previous_match = false;
  for (const Span& span : spans) {
    if (parts.empty() || starts_new(span.is_match, previous_match)) {
      parts.push_back(span);
    } else {
      parts.back().begin = std::min(parts.back().begin, span.begin);
      parts.back().end = std::max(parts.back().end, span.end);
    }
    previous_match = span.is_match;
  }
  return parts;
}

}  // namespace

void append_split(const Piece& piece, const std::vector<Span>& spans, SplitBehavior behavior,
                  std::vector<Piece>& pieces) {
  const auto append = [&](const Span& span) {
    if (span.begin == span.end) return;
    pieces.push_back(
        {piece.begin + span.begin, piece.begin + span.end, -1, piece.at_text_start && span.begin == 0});
  };
  const auto match_after_text = [](bool match, bool previous) { return !(match && !previous); };
  switch (behavior) {
    case SplitBehavior::kIsolated:
      for (const Span& span : spans) append(span);
      break;
    case SplitBehavior::kRemoved:
      for (const Span& span : spans) {
        if (!span.is_match) append(span);
      }
      break;
    case SplitBehavior::kContiguous:
      for (const Span& span : joined(spans, [](bool match, bool previous) { return match != previous; })) {
        append(span);
      }
      break;
    case SplitBehavior::kMergedWithPrevious:
      for (const Span& span : joined(spans, match_after_text)) append(span);
      break;
    case SplitBehavior::kMergedWithNext: {
      const std::vector<Span> parts = joined({spans.rbegin(), spans.rend()}, match_after_text);
      for (auto span = parts.rbegin(); span != parts.rend(); ++span) append(*span);
      break;
    }
  }
}

}  // namespace swiftprune::text
