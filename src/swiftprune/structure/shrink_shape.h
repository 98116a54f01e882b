// The sizes of a smaller model of the same family, and which of them reach a ratio.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/model/model_config.h"
#include "swiftprune/structure/block_units.h"

namespace swiftprune {

struct ShrinkShape {
  std::int64_t channels = 0;  // width of the MLP
  std::int64_t groups = 0;    // key heads
  std::int64_t layers = 0;
  bool operator==(const ShrinkShape&) const = default;
};
ShrinkShape shape_of(const ModelConfig& model);

// Weights of the blocks' linears.
std::int64_t block_parameters(const ModelConfig& model, const ShrinkShape& shape);
// Share of them that `shape` has lost.
double ratio_of(const ModelConfig& model, const ShrinkShape& shape);

// The ratio that leaves `target` parameters of a model of `total`, embeddings and all. Throws Error{kUsage}
// naming
// --target-params when that is more than there are or leaves nothing in the blocks.
double ratio_for_parameters(const ModelConfig& model, std::int64_t total, std::int64_t target);

struct ShapeRequest {
  double ratio = 0.2;  // share of the blocks' parameters to remove, 0 < ratio < 1
  std::vector<UnitKind> units;
  std::int64_t align = 1;  // the MLP's width becomes a multiple of it
};

// Every shape whose ratio is within half a step of the MLP's width of the wanted one (one for each number of
// layers and groups that allows it), else the nearest. Throws Error{kUsage} naming --ratio, --align or
// --units when a unit cannot be removed from this model, or nothing would be left of one.
std::vector<ShrinkShape> shapes_for(const ModelConfig& model, const ShapeRequest& request);

}  // namespace swiftprune
