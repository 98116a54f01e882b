#include "swiftprune/serving/token_table.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "swiftprune/text/byte_level.h"
#include "swiftprune/text/text_stream.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune {
namespace {

// "<0x41>", as SentencePiece's byte tokens are spelled.
std::optional<std::string> fallback_byte(const std::string& spelling) {
  if (spelling.size() != 6 || !spelling.starts_with("<0x") || spelling[5] != '>') return std::nullopt;
  const auto digit = [](char c) { return c <= '9' ? c - '0' : (c | 32) - 'a' + 10; };
  return std::string(1, static_cast<char>(digit(spelling[3]) * 16 + digit(spelling[4])));
}

// text: what the token adds inside a text. A part of a character shows as U+FFFD there; its bytes stand in
// the token's spelling.
std::string bytes_of(const Tokenizer& tokenizer, std::int32_t id, const std::string& text) {
  if (text.find(kIncompleteCharacter) == std::string::npos) return text;
  const std::string spelling = tokenizer.token(id);
  const auto bytes = fallback_byte(spelling) ? fallback_byte(spelling) : text::byte_level_bytes(spelling);
  // Only when it explains what was seen.
  return bytes && text::replace_invalid_utf8(*bytes) == text ? *bytes : "";
}

}  // namespace

TokenTable::TokenTable(const Tokenizer& tokenizer) {
  // Decoders treat the start of a text differently, so tokens are looked at behind a letter.
  const TextStream inside(tokenizer, tokenizer.encode("a", false));
  bytes_.resize(static_cast<std::size_t>(tokenizer.vocab_size()));
  std::vector<std::pair<std::string_view, std::int32_t>> sorted;
  for (std::size_t i = 0; i < bytes_.size(); ++i) {
    const auto id = static_cast<std::int32_t>(i);
    bytes_[i] = bytes_of(tokenizer, id, inside.peek(id));
    if (!bytes_[i].empty()) sorted.emplace_back(bytes_[i], id);
  }
  std::sort(sorted.begin(), sorted.end());
  std::vector<std::int32_t> open;  // the nodes of the token before, by depth
  const auto close = [&](std::size_t depth) {
    for (; open.size() > depth; open.pop_back())
      nodes_[static_cast<std::size_t>(open.back())].end = static_cast<std::int32_t>(nodes_.size());
  };
  std::string_view before;
  for (const auto& [token, id] : sorted) {
    const auto shared = std::mismatch(before.begin(), before.end(), token.begin(), token.end()).second;
    close(static_cast<std::size_t>(shared - token.begin()));
    for (std::size_t depth = open.size(); depth < token.size(); ++depth) {
      const auto first = static_cast<std::int32_t>(ids_.size());
      open.push_back(static_cast<std::int32_t>(nodes_.size()));
      nodes_.push_back({.byte = static_cast<std::uint8_t>(token[depth]),
                        .depth = static_cast<std::int32_t>(depth) + 1,
                        .first_id = first,
                        .last_id = first});
    }
    ids_.push_back(id);
    nodes_[static_cast<std::size_t>(open.back())].last_id = static_cast<std::int32_t>(ids_.size());
    before = token;
  }
  close(0);
}

const std::string& TokenTable::bytes(std::int32_t id) const {
  static const std::string none;
  const auto i = static_cast<std::size_t>(id);
  return i < bytes_.size() ? bytes_[i] : none;
}

std::shared_ptr<const TokenTable> LazyTokenTable::get() {
  const std::lock_guard lock(mutex_);
  if (!table_) table_ = std::make_shared<const TokenTable>(tokenizer_);
  return table_;
}

}  // namespace swiftprune
