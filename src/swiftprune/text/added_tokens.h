// Tokens that are found in the text itself, before (or, when normalised, after) normalisation and before any
// cutting: special tokens and those added to a finished vocabulary.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "swiftprune/core/json.h"
#include "swiftprune/text/byte_trie.h"
#include "swiftprune/text/normalizers.h"
#include "swiftprune/text/split_text.h"
#include "swiftprune/text/vocabulary.h"

namespace swiftprune::text {

struct AddedToken {
  std::string content;
  bool special = false;      // left out by decode(skip_special)
  bool single_word = false;  // only where no word character stands beside it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = true;    // looked for in the normalised text, as its normalised spelling

  static AddedToken from_json(const JsonField& field);
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // Gives ids as the library does: that of the model's token of the same spelling, else the next free one in
  // the order of the list (an id in the file is not looked at).
  AddedTokens(const std::vector<AddedToken>& tokens, const Vocabulary& model, const Normalizer* normalizer);

  // Cuts the text at the added tokens and normalises what is between them. normalizer may be null.
  SplitText split(std::string_view text, const Normalizer* normalizer, MatchScratch& scratch) const;

  std::optional<std::int32_t> find(std::string_view content) const;
  const AddedToken* token(std::int32_t id) const;
  // The spelling that decoders get: the normalised one where the token is normalised.
  const std::string* decoder_spelling(std::int32_t id) const;
  bool is_special(std::string_view spelling) const;
  std::int64_t id_end() const { return id_end_; }  // highest id + 1

 private:
  struct Entry {
    AddedToken token;
    std::string normalized;  // what is looked for
  };
  // Appends the pieces of text: found tokens and the stretches between them (relative to `base`).
  void find(std::string_view text, const ByteTrie& trie, std::size_t base, MatchScratch& scratch,
            std::vector<Piece>& pieces) const;

  std::unordered_map<std::int32_t, Entry> entries_;
  std::unordered_map<std::string, std::int32_t> ids_;
  std::unordered_map<std::string, bool> special_;
  ByteTrie plain_, normalized_;
  std::int64_t id_end_ = 0;
  std::optional<Regex> word_;
};

}  // namespace swiftprune::text
