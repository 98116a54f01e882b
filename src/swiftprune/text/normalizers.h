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
  virtual void apply(std::string& text, MatchScratch& scratch) const = 0;
};

std::unique_ptr<Normalizer> make_normalizer(const JsonField& field);

}  // namespace swiftprune::text
