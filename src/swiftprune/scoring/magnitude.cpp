// |w|
#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {

constinit const ScoreKind kMagnitudeScore{.name = "magnitude",
                                          .summary = "|w|",
                                          .source = "LeCun et al. 1989; Han et al. 2015",
                                          .from_statistics = [](const ScoreInput&) { return Scores{}; }};

}  // namespace swiftprune
