#include "swiftprune/text/text_stream.h"

#include <algorithm>
#include <string_view>

namespace swiftprune {
namespace {

constexpr std::string_view kIncomplete = "\xEF\xBF\xBD";  // U+FFFD

std::string beyond(std::string_view before, std::string_view after) {
  // A prompt of ids may end inside a character, which the answer completes.
  while (!after.starts_with(before) && before.ends_with(kIncomplete))
    before.remove_suffix(kIncomplete.size());
  // Bytes that came before may read differently now: what follows them still begins with a whole character.
  std::size_t start = std::min(before.size(), after.size());
  while (start < after.size() && (static_cast<unsigned char>(after[start]) & 0xC0) == 0x80) ++start;
  return std::string(after.substr(start));
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::span<const std::int32_t> prompt)
    : tokenizer_(tokenizer), ids_(prompt.begin(), prompt.end()), shown_(ids_.size()), before_(decoded()) {}

std::string TextStream::decoded() const { return tokenizer_.decode(std::span(ids_).subspan(context_)); }

std::string TextStream::take(const std::string& after) {
  std::string piece = beyond(before_, after);
  if (piece.empty()) return "";
  // The tokens of this piece are context enough for the next.
  context_ = shown_;
  shown_ = ids_.size();
  before_ = decoded();
  return piece;
}

std::string TextStream::add(std::int32_t id) {
  ids_.push_back(id);
  const std::string after = decoded();
  return after.ends_with(kIncomplete) ? "" : take(after);
}

std::string TextStream::peek(std::int32_t id) const {
  std::vector<std::int32_t> ids(ids_.begin() + static_cast<std::ptrdiff_t>(context_), ids_.end());
  ids.push_back(id);
  return beyond(before_, tokenizer_.decode(ids));
}

std::string TextStream::rest() { return take(decoded()); }

}  // namespace swiftprune
