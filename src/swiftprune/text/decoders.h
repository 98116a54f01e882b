// The "decoder" of tokenizer.json: token spellings back to text. Each component is one small class;
// decoders.cpp holds the list.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "swiftprune/text/component.h"
#include "swiftprune/text/regex.h"

namespace swiftprune::text {

class Decoder {
 public:
  virtual ~Decoder() = default;
  // Rewrites the list; the text is what its strings make, one after the other.
  virtual void apply(std::vector<std::string>& tokens, MatchScratch& scratch) const = 0;
};

std::unique_ptr<Decoder> make_decoder(const JsonField& field);
std::unique_ptr<Decoder> make_byte_level_decoder();

}  // namespace swiftprune::text
