// SentencePiece's compiled normalisation rules ("precompiled_charsmap"): a double-array trie (darts-clone's
// format) from byte strings to replacement texts. Layout: u32 size of the trie in bytes; the trie's u32
// units; replacement texts, each ended by a NUL.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace swiftprune::text {

class PrecompiledCharsmap {
 public:
  // where: file and JSON path for the message of a broken map (Error{kBadInput}).
  static PrecompiledCharsmap from_base64(std::string_view base64, std::string_view where);
  PrecompiledCharsmap(std::string_view bytes, std::string_view where);

  // As the `tokenizers` library does it: a grapheme cluster of under 6 bytes is replaced by what its shortest
  // known prefix stands for; of others, each code point on its own.
  std::string normalized(std::string_view text) const;

 private:
  // Replacement of the shortest key that `text` starts with.
  std::optional<std::string_view> shortest_match(std::string_view text) const;
  std::vector<std::uint32_t> units_;
  std::string replacements_;
};

// Standard alphabet with padding; nothing when it is not base64.
std::optional<std::string> base64_decoded(std::string_view text);

}  // namespace swiftprune::text
