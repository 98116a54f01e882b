// Scores, selections and refinements by their text, as tests write them. The library itself takes specs.
#pragma once

#include <memory>
#include <string_view>

#include "swiftprune/refinement/refiner.h"
#include "swiftprune/scoring/scorer.h"
#include "swiftprune/selection/selector.h"

namespace swiftprune {

inline std::unique_ptr<Scorer> make_scorer(std::string_view spec) { return make_scorer(parse_score(spec)); }
inline std::unique_ptr<Refiner> make_refiner(std::string_view spec) {
  return make_refiner(parse_refine(spec));
}
inline std::unique_ptr<Selector> make_selector(std::string_view name, const SelectorOptions& options = {}) {
  return make_selector(parse_select(name), options);
}

}  // namespace swiftprune
