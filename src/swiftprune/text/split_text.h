// A text on its way through the pre-tokenizers: one buffer, cut into pieces.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/text/regex.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::text {

struct Piece {
  std::size_t begin, end;      // bytes of SplitText::text
  std::int32_t token = -1;     // an added token, which no later step touches; -1: text
  bool at_text_start = false;  // nothing of the original text stood before it
  bool is_text() const { return token < 0; }
};

struct SplitText {
  std::string text;
  std::vector<Piece> pieces;  // in order; empty ones are left out

  std::string_view view(const Piece& piece) const {
    return std::string_view(text).substr(piece.begin, piece.end - piece.begin);
  }
};

// What becomes of the matches of a splitting pattern (names as in the files).
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Appends the parts of `piece` that the behaviour leaves. spans: all of the piece, in order, relative to it.
void append_split(const Piece& piece, const std::vector<Span>& spans, SplitBehavior behavior,
                  std::vector<Piece>& pieces);

// Splits every text piece; find(text, spans) appends the spans of a piece's text.
template <class Find>
void split_pieces(SplitText& split, SplitBehavior behavior, const Find& find) {
  std::vector<Piece> pieces;
  pieces.reserve(split.pieces.size());
  std::vector<Span> spans;
  for (const Piece& piece : split.pieces) {
    if (!piece.is_text()) {
      pieces.push_back(piece);
      continue;
    }
    spans.clear();
    find(split.view(piece), spans);
    append_split(piece, spans, behavior, pieces);
  }
  split.pieces = std::move(pieces);
}

// Spans whose matches are single code points for which the predicate holds.
template <class Predicate>
void find_code_points(std::string_view text, const Predicate& predicate, std::vector<Span>& spans) {
  std::size_t done = 0;
  for (std::size_t i = 0; i < text.size();) {
    const CodePoint c = code_point_at(text, i);
    if (predicate(c.value)) {
      if (done < i) spans.push_back({done, i, false});
      spans.push_back({i, i + c.bytes, true});
      done = i + c.bytes;
    }
    i += c.bytes;
  }
  if (done < text.size()) spans.push_back({done, text.size(), false});
}

// Rewrites every text piece: rewrite(piece, text, out) appends the new text of a piece.
template <class Rewrite>
void rewrite_pieces(SplitText& split, const Rewrite& rewrite) {
  std::string out;
  out.reserve(split.text.size() + split.text.size() / 2 + 16);
  std::vector<Piece> pieces;
  pieces.reserve(split.pieces.size());
  for (Piece piece : split.pieces) {
    const std::string_view text = split.view(piece);
    piece.begin = out.size();
    if (piece.is_text()) rewrite(piece, text, out);
    piece.end = out.size();
    if (!piece.is_text() || piece.end > piece.begin) pieces.push_back(piece);
  }
  split.text = std::move(out);
  split.pieces = std::move(pieces);
}

}  // namespace swiftprune::text
