// The sizes of a smaller model of the same family, and which of them reach a ratio.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/model/model_config.h"
#include "swiftprune/structure/block_units.h"

namespace swiftprune {

struct ShrinkShape {
  std::int64_t channels = 0;  // width of the MLP, of the widest layer where they differ
  std::int64_t groups = 0;    // key heads, likewise
  std::int64_t layers = 0;
  // Of each of the dense model's layers where they differ, which transformers does not load (model/layer_sizes.h); else
  // empty. 0 of both where the layer goes: lists that know which layers go are both there.
  std::vector<std::int64_t> layer_channels{}, layer_groups{};

  std::int64_t channels_in(std::int64_t layer) const {
    return layer_channels.empty() ? channels : layer_channels[static_cast<std::size_t>(layer)];
  }
  std::int64_t groups_in(std::int64_t layer) const {
    return layer_groups.empty() ? groups : layer_groups[static_cast<std::size_t>(layer)];
  }
  bool operator==(const ShrinkShape&) const = default;
};
ShrinkShape shape_of(const ModelConfig& model);
// Of these sizes of each of the dense model's layers, 0 of both where it goes: lists only where those that stay differ.
ShrinkShape shape_of_layers(std::vector<std::int64_t> channels, std::vector<std::int64_t> groups);
// How many units that the output projection reads (channels, head groups) are left in the layer.
std::int64_t units_in(const ShrinkShape& shape, std::int64_t layer, LinearInput output);
// Does the output projection lose units in this layer, or in any?
bool loses_units(const ModelConfig& model, const ShrinkShape& shape, std::int64_t layer, LinearInput output);
bool loses_units(const ModelConfig& model, const ShrinkShape& shape, LinearInput output);

// Weights of one MLP channel and of one head group, in one block (of blocks with different mixers: in the mean).
struct UnitWeights {
  double channel = 0.0;
  double group = 0.0;
};
UnitWeights unit_weights(const ModelConfig& model);

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

  bool has(UnitKind kind) const { return std::find(units.begin(), units.end(), kind) != units.end(); }
};

// Throws Error{kUsage} naming --ratio, --align or --units when the ratio is not between 0 and 1, or a unit
// cannot be removed from this model.
void check_request(const ModelConfig& model, const ShapeRequest& request);

// Every shape whose ratio is within half a step of the MLP's width of the wanted one (one for each number of
// layers and groups that allows it), else the nearest. Throws Error{kUsage} naming --ratio, --align or
// --units when a unit cannot be removed from this model, or nothing would be left of one.
std::vector<ShrinkShape> shapes_for(const ModelConfig& model, const ShapeRequest& request);

}  // namespace swiftprune
