// The "pre_tokenizer" of tokenizer.json: cuts a text into the pieces that the model sees one by one. Each
// component is one small class; pre_tokenizers.cpp holds the list.
#pragma once

#include <memory>
#include <string_view>

#include "swiftprune/text/component.h"
#include "swiftprune/text/split_text.h"

namespace swiftprune::text {

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(SplitText& split, MatchScratch& scratch) const = 0;
};

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const JsonField& field);
// Isolates the matches of the pattern, then spells every byte (the tokenizers of tiktoken's files).
std::unique_ptr<PreTokenizer> make_tiktoken_pre_tokenizer(std::string_view pattern);

}  // namespace swiftprune::text
