// Unigram language model (Kudo 2018, https://arxiv.org/abs/1804.10959): of all ways to cut a piece into
// tokens, the one with the highest sum of scores.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "swiftprune/text/byte_trie.h"
#include "swiftprune/text/model.h"

namespace swiftprune::text {

class Unigram : public TokenModel {
 public:
  // scores[id]: log probability. Without unknown_id, an unknown code point is an error.
  Unigram(Vocabulary vocabulary, std::vector<double> scores, std::optional<std::int32_t> unknown_id,
          bool byte_fallback);
  static std::unique_ptr<TokenModel> from_json(const JsonField& field);

  void encode(std::string_view piece, ModelScratch& scratch, std::vector<std::int32_t>& ids) const override;

 private:
  void encode_best(std::string_view piece, std::vector<std::int32_t>& ids) const;
  void append_token(std::string_view text, std::vector<std::int32_t>& ids) const;

  std::vector<double> scores_;
  double unknown_score_;
  std::int32_t unknown_id_;             // -1: none
  std::vector<std::int32_t> byte_ids_;  // of byte_fallback, else empty
  ByteTrie trie_;
};

}  // namespace swiftprune::text
