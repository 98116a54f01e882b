// How many channels and head groups each layer keeps when layers may differ: those go first whose absence
// changes the model's output least a weight, or those whose score is lowest beside their layer's others.
#pragma once

#include <string>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/pipeline/streams/trial_streams.h"
#include "swiftprune/structure/shrink_shape.h"

namespace swiftprune {

struct WidthChoiceOptions {
  std::string score = "contribution";
  ProgressFn progress;  // stage "widths"
};

// The change of the model's output when one layer alone has lost a share of its units: mean over the tokens
// of |y' - y|²/|y|² of the final normed hidden states.
struct UnitChanges {
  double share = 0.0;           // that was taken out
  std::vector<double> changes;  // of each layer; empty: units of this kind stay

  // What the layer is taken to cost when it has lost this share: change·f(gone)/f(share), f(s) = s²/(1 - s). The change
  // grows with the square of what is missing, and without bound towards an empty layer.
  double cost(std::size_t layer, double gone) const;
};
struct WidthChanges {
  UnitChanges channels{}, groups{};
  UnitChanges layers{};  // that go as a whole: a share of 1
};

// Without compensation. One pass over the blocks; the streams that have lost something run along behind the
// layer that lost it.
WidthChanges measure_width_changes(const ModelConfig& model, const ShapeRequest& request,
                                   TrialStreams& trials, const WidthChoiceOptions& options);

// Throws Error{kUsage} like check_request(), and where request.units names layers or the ratio leaves less
// than one piece of every unit.
void check_width_request(const ModelConfig& model, const ShapeRequest& request);

// The shape whose layers lose units, the cheapest next one first (UnitChanges::cost()), until request.ratio of the
// weights is gone. Widths stay multiples of request.align (or the dense width), and one piece is left everywhere. The
// request must pass check_width_request().
ShrinkShape spread_widths(const ModelConfig& model, const ShapeRequest& request, const WidthChanges& changes);

// FLAP's own choice of widths (arXiv 2312.11983, section 3.2, "adaptive structure search"): the scores of
// each layer's units are brought to mean 0 and deviation 1, and the lowest of all layers go until
// request.ratio of the weights is gone; then widths become multiples of request.align. The scores are those
// of the dense model on the trials' text, all of it. Throws like check_width_request().
ShrinkShape standardized_widths(const ModelConfig& model, const ShapeRequest& request, TrialStreams& trials,
                                const WidthChoiceOptions& options);

}  // namespace swiftprune
