// Models over whole words: WordLevel looks a word up, WordPiece cuts it into the longest known parts from the
// left (Wu et al. 2016, https://arxiv.org/abs/1609.08144).
#pragma once

#include <memory>

#include "swiftprune/text/model.h"

namespace swiftprune::text {

class WordLevel : public TokenModel {
 public:
  static std::unique_ptr<TokenModel> from_json(const JsonField& field);
  void encode(std::string_view piece, ModelScratch& scratch, std::vector<std::int32_t>& ids) const override;

 private:
  explicit WordLevel(const JsonField& field);
  std::int32_t unknown_id_;
};

class WordPiece : public TokenModel {
 public:
  static std::unique_ptr<TokenModel> from_json(const JsonField& field);
  void encode(std::string_view piece, ModelScratch& scratch, std::vector<std::int32_t>& ids) const override;

 private:
  explicit WordPiece(const JsonField& field);
  std::int32_t unknown_id_;
  std::string prefix_;  // of every part but the first
  std::int64_t max_code_points_;
};

}  // namespace swiftprune::text
