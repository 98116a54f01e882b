// Which mixture of narrower MLPs, fewer heads and fewer layers costs the model least at a given size:
// measured on a little text, without compensation.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/pipeline/choices/layer_choice.h"
#include "swiftprune/structure/shrink_shape.h"

namespace swiftprune {

// Which layers go: one after the other by the measured loss, by block influence, or the better of both exchanged one by
// one as long as the loss falls.
enum class LayersBy { kGreedy, kInfluence, kSearch };

struct ShapeChoiceOptions {
  std::string score = "contribution";
  LayersBy layers_by = LayersBy::kGreedy;
  ProgressFn progress;  // stages "layers", "widths"
};

struct ShapeChoice {
  ShrinkShape shape;
  std::vector<std::int64_t> removed_layers;  // rising
  nlohmann::ordered_json measured;           // what the choice rests on, for the record
};

// Among shapes_for(request). One shape: only its layers are chosen. Several: the rises of the loss by layers
// (in the order of greedy_layers), by head groups and by width are measured one at a time and added up; width
// at half and at the whole of the largest cut, between them along a power of the share.
ShapeChoice choose_shape(const ModelConfig& model, const ShapeRequest& request, TrialStreams& trials,
                         const ShapeChoiceOptions& options);

}  // namespace swiftprune
