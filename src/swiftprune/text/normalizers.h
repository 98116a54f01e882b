// The "normalizer" of tokenizer.json: what happens to a text before it is cut. Each component is one small
// class; normalizers.cpp holds the list.
#pragma once

#include <memory>
#include <string>

#include "swiftprune/text/component.h"
#include "swiftprune/text/regex.h"

namespace swiftprune::text {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Whether the new text begins with what became of the old one's first letter: Metaspace with prepend_scheme "first"
  // asks for it, as the library `tokenizers` does (it looks at where the first letter stood).
  virtual bool apply(std::string& text, MatchScratch& scratch) const = 0;
};

std::unique_ptr<Normalizer> make_normalizer(const JsonField& field);

}  // namespace swiftprune::text
