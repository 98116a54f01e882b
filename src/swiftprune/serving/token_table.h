// The bytes that each token of a vocabulary adds to a text, as a tree: what many tokens begin with is looked
// at once.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "swiftprune/text/tokenizer.h"

namespace swiftprune {

// U+FFFD: what a text has for bytes that are no whole character.
inline constexpr std::string_view kIncompleteCharacter = "\xEF\xBF\xBD";

class TokenTable {
 public:
  // In depth-first order: the nodes below node i are (i, end).
  struct Node {
    std::uint8_t byte = 0;
    std::int32_t depth = 0;  // bytes up to here
    std::int32_t end = 0;
    std::int32_t first_id = 0, last_id = 0;  // ids()[first_id, last_id) end here
  };

  explicit TokenTable(const Tokenizer& tokenizer);
  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<std::int32_t>& ids() const { return ids_; }
  // Empty: special tokens, and those whose bytes are not known.
  const std::string& bytes(std::int32_t id) const;

 private:
  std::vector<std::string> bytes_;
  std::vector<Node> nodes_;
  std::vector<std::int32_t> ids_;
};

// The table of a tokenizer, made when it is first asked for. Thread-safe.
class LazyTokenTable {
 public:
  explicit LazyTokenTable(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::shared_ptr<const TokenTable> get();

 private:
  const Tokenizer& tokenizer_;
  std::mutex mutex_;
  std::shared_ptr<const TokenTable> table_;
};

}  // namespace swiftprune
