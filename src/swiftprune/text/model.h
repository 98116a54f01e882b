// The "model" of tokenizer.json: a piece of text to token ids. model.cpp holds the list.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "swiftprune/text/component.h"
#include "swiftprune/text/vocabulary.h"
#include "swiftprune/text/word_cache.h"

namespace swiftprune::text {

// Working memory of BPE merges.
struct MergeScratch {
  struct Symbol {
    std::int32_t id;
    std::int32_t previous, next;  // indices of the neighbours; -1: none, and previous -2: merged away
  };
  struct Candidate {
    std::int32_t rank;
    std::int32_t position;  // of the left symbol
    std::int32_t merged;
  };
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
  std::vector<std::int32_t> ids, ranks, merged;
};

// One a thread.
struct ModelScratch {
  WordCache cache;
  MergeScratch merge;
  std::vector<std::int32_t> ids;
};

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  // Appends the ids of a piece (well-formed UTF-8, not empty).
  virtual void encode(std::string_view piece, ModelScratch& scratch,
                      std::vector<std::int32_t>& ids) const = 0;
  const Vocabulary& vocabulary() const { return vocabulary_; }

 protected:
  explicit TokenModel(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  Vocabulary vocabulary_;
};

std::unique_ptr<TokenModel> make_model(const JsonField& field);

}  // namespace swiftprune::text
