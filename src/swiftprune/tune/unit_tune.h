// tune() where the plan says what is left of each layer: channels, head groups, or nothing. A layer is one unit of the
// search, its levels the widths at which shrink solved it (width_store.h) and, where layers may go, none at all.
#pragma once

#include "swiftprune/tune/tune.h"

namespace swiftprune {

// options.units are there; the budget is a ratio, bytes, tokens a second or a divergence. Throws what tune() throws.
TunedPlan tune_units(const Model& model, Device& device, const TuneText& text, const TuneOptions& options,
                     Communicator& ranks);

}  // namespace swiftprune
