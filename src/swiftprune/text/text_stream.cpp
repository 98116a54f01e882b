#include "swiftprune/text/text_stream.h"

#include <span>

namespace swiftprune {
namespace {

constexpr std::string_view kIncomplete = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

std::string TextStream::add(std::int32_t id) {
  ids_.push_back(id);
  const std::span<const std::int32_t> all(ids_);
  const std::string before = tokenizer_.decode(all.subspan(context_, shown_ - context_));
  const std::string after = tokenizer_.decode(all.subspan(context_));
  if (after.size() <= before.size() || std::string_view(after).ends_with(kIncomplete)) return "";
  context_ = shown_;
  shown_ = ids_.size();
  return after.substr(before.size());
}

std::string TextStream::rest() {
  const std::span<const std::int32_t> all(ids_);
  const std::string before = tokenizer_.decode(all.subspan(context_, shown_ - context_));
  const std::string after = tokenizer_.decode(all.subspan(context_));
  context_ = shown_ = ids_.size();
  return after.size() > before.size() ? after.substr(before.size()) : "";
}

}  // namespace swiftprune
