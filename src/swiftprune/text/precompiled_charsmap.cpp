#include "swiftprune/text/precompiled_charsmap.h"

#include <cstring>

#include "swiftprune/core/error.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::text {
namespace {

// A unit of darts-clone's double array: value of a leaf, or label, offset to the children and "has a leaf
// child".
bool is_leaf(std::uint32_t unit) { return (unit >> 31) != 0; }
bool has_leaf(std::uint32_t unit) { return ((unit >> 8) & 1U) != 0; }
std::uint32_t leaf_value(std::uint32_t unit) { return unit & 0x7FFFFFFFU; }
std::uint32_t label(std::uint32_t unit) { return unit & 0x800000FFU; }
std::uint32_t offset(std::uint32_t unit) { return (unit >> 10) << ((unit & 0x200U) >> 6); }

constexpr std::size_t kWholeGraphemeBytes = 6;

}  // namespace

std::optional<std::string> base64_decoded(std::string_view text) {
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string out;
  std::uint32_t bits = 0;
  int have = 0;
  for (const char c : text) {
    std::uint32_t value = 0;
    if (c >= 'A' && c <= 'Z')
      value = static_cast<std::uint32_t>(c - 'A');
    else if (c >= 'a' && c <= 'z')
      value = static_cast<std::uint32_t>(c - 'a') + 26;
    else if (c >= '0' && c <= '9')
      value = static_cast<std::uint32_t>(c - '0') + 52;
    else if (c == '+')
      value = 62;
    else if (c == '/')
      value = 63;
    else
      return std::nullopt;
    bits = bits << 6 | value;
    have += 6;
    if (have >= 8) {
      have -= 8;
      out += static_cast<char>((bits >> have) & 0xFF);
    }
  }
  if (text.size() % 4 == 1) return std::nullopt;
  return out;
}

PrecompiledCharsmap PrecompiledCharsmap::from_base64(std::string_view base64, std::string_view where) {
  const auto bytes = base64_decoded(base64);
  if (!bytes) bad_input("{}: not base64", where);
  return {*bytes, where};
}

PrecompiledCharsmap::PrecompiledCharsmap(std::string_view bytes, std::string_view where) {
  std::uint32_t trie_bytes = 0;
  if (bytes.size() < sizeof trie_bytes)
    bad_input("{}: found {} bytes, expected at least 4", where, bytes.size());
  std::memcpy(&trie_bytes, bytes.data(), sizeof trie_bytes);
  bytes.remove_prefix(sizeof trie_bytes);
  if (trie_bytes > bytes.size() || trie_bytes % 4 != 0 || trie_bytes == 0) {
    bad_input("{}: found a trie of {} bytes, expected a multiple of 4 up to {}", where, trie_bytes,
              bytes.size());
  }
  units_.resize(trie_bytes / 4);
  std::memcpy(units_.data(), bytes.data(), trie_bytes);
  replacements_ = bytes.substr(trie_bytes);
  if (!replacements_.empty() && replacements_.back() != '\0') {
    bad_input("{}: the replacement texts do not end with a zero byte", where);
  }
  if (invalid_utf8_position(replacements_)) bad_input("{}: a replacement text is not UTF-8", where);
  for (std::size_t i = 0; i < units_.size(); ++i) {
    const bool leaf = is_leaf(units_[i]);
    const std::size_t last_child = (i ^ offset(units_[i])) | 0xFFU;
    if (leaf ? leaf_value(units_[i]) >= replacements_.size() : last_child >= units_.size()) {
      bad_input("{}: unit {} of the trie points outside of it", where, i);
    }
    if (!leaf && has_leaf(units_[i]) && !is_leaf(units_[i ^ offset(units_[i])]))
      bad_input("{}: unit {} of the trie has no value, expected one", where, i);
  }
}

std::optional<std::string_view> PrecompiledCharsmap::shortest_match(std::string_view text) const {
  std::size_t node = offset(units_[0]);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == 0) return std::nullopt;
    node ^= byte;
    if (label(units_[node]) != byte) return std::nullopt;
    const std::uint32_t unit = units_[node];
    node ^= offset(unit);
    if (!has_leaf(unit)) continue;
    return std::string_view(replacements_.c_str() + leaf_value(units_[node]));
  }
  return std::nullopt;
}

std::string PrecompiledCharsmap::normalized(std::string_view text) const {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const std::string_view grapheme = text.substr(i, grapheme_bytes(text, i));
    i += grapheme.size();
    const auto whole = grapheme.size() < kWholeGraphemeBytes ? shortest_match(grapheme) : std::nullopt;
    if (whole) {
      out.append(*whole);
      continue;
    }
    for (std::size_t j = 0; j < grapheme.size();) {
      const std::string_view part = grapheme.substr(j, utf8_length(grapheme[j]));
      out.append(shortest_match(part).value_or(part));
      j += part.size();
    }
  }
  return out;
}

}  // namespace swiftprune::text
