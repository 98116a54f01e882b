#include "swiftprune/structure/shrink_shape.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

// transformers refuses a number of heads that does not divide the hidden size in some families.
bool is_loadable(const ModelConfig& model, std::int64_t groups) {
  const std::int64_t heads = groups * (model.num_heads / model.num_kv_heads);
  return !model.heads_divide_hidden_size || groups == model.num_kv_heads || model.hidden_size % heads == 0;
}

// The width that comes nearest to leaving `wanted` weights in all layers: a multiple of `align`, or the dense
// width, which need not be one.
std::int64_t width_for(const ModelConfig& model, const ShrinkShape& shape, double wanted,
                       std::int64_t align) {
  const UnitWeights sizes = unit_weights(model);
  const double of_mlp =
      wanted / static_cast<double>(shape.layers) - sizes.group * static_cast<double>(shape.groups);
  const std::int64_t steps =
      std::max<std::int64_t>(1, std::llround(of_mlp / sizes.channel / static_cast<double>(align)));
  return std::min(steps * align, model.intermediate_size);
}

}  // namespace

void check_request(const ModelConfig& model, const ShapeRequest& request) {
  if (!(request.ratio > 0.0 && request.ratio < 1.0)) {
    bad_usage("--ratio: found {}, expected more than 0 and less than 1", request.ratio);
  }
  for (const UnitKind kind : request.units) {
    const auto reason = inseparable(model, kind);
    if (!reason) continue;
    std::vector<std::string_view> possible;
    for (const UnitKind other : {UnitKind::kMlp, UnitKind::kHeads, UnitKind::kLayers}) {
      if (!inseparable(model, other)) possible.push_back(name_of(other));
    }
    bad_usage("--units: {} cannot be removed from this model: {}; possible: {}", name_of(kind), *reason,
              possible.empty() ? "none" : fmt::format("{}", fmt::join(possible, ", ")));
  }
  if (request.has(UnitKind::kMlp) && request.align > model.intermediate_size) {
    bad_usage("--align: found {}, expected at most the MLP's width {}", request.align,
              model.intermediate_size);
  }
}

ShrinkShape shape_of(const ModelConfig& model) {
  return {model.intermediate_size, model.num_kv_heads, model.num_layers()};
}

ShrinkShape shape_of_layers(std::vector<std::int64_t> channels, std::vector<std::int64_t> groups) {
  expect(channels.size() == groups.size() && !channels.empty(), "shape_of_layers: two sizes a layer");
  const auto differ = [](std::vector<std::int64_t> sizes) {
    std::erase(sizes, 0);
    return std::adjacent_find(sizes.begin(), sizes.end(), std::not_equal_to<>()) != sizes.end();
  };
  ShrinkShape shape{*std::max_element(channels.begin(), channels.end()),
                    *std::max_element(groups.begin(), groups.end()),
                    std::ssize(channels) - std::count(channels.begin(), channels.end(), 0)};
  const bool channels_differ = differ(channels), groups_differ = differ(groups);
  const bool layers_go = shape.layers < std::ssize(channels);
  const bool lists = channels_differ || groups_differ;
  if (channels_differ || (lists && layers_go)) shape.layer_channels = std::move(channels);
  if (groups_differ || (lists && layers_go)) shape.layer_groups = std::move(groups);
  return shape;
}

std::int64_t units_in(const ShrinkShape& shape, std::int64_t layer, LinearInput output) {
  return output == LinearInput::kMlpOutput ? shape.channels_in(layer) : shape.groups_in(layer);
}

bool loses_units(const ModelConfig& model, const ShrinkShape& shape, std::int64_t layer, LinearInput output) {
  return units_in(shape, layer, output) <
         (output == LinearInput::kMlpOutput ? model.intermediate_size : model.num_kv_heads);
}

bool loses_units(const ModelConfig& model, const ShrinkShape& shape, LinearInput output) {
  if (output == LinearInput::kMlpOutput)
    return shape.channels < model.intermediate_size || !shape.layer_channels.empty();
  return shape.groups < model.num_kv_heads || !shape.layer_groups.empty();
}

namespace {

// Weights of the block's linears around attention, or what stands in its place.
double mixer_weights(const BlockConfig& block) {
  double sum = 0.0;
  for (const LinearTensors& linear : linears_of(block)) {
    if (output_of(linear.input) == LinearInput::kAttentionOutput)
      sum += static_cast<double>(linear.outputs) * static_cast<double>(linear.inputs);
  }
  return sum;
}

}  // namespace

UnitWeights unit_weights(const ModelConfig& model) {
  UnitWeights sizes;
  for (const LinearTensors& linear : linears_of(model.blocks.front())) {
    const double weights = static_cast<double>(linear.outputs) * static_cast<double>(linear.inputs);
    if (output_of(linear.input) == LinearInput::kMlpOutput)
      sizes.channel += weights / static_cast<double>(model.intermediate_size);
  }
  // Where blocks differ (recurrent ones, none of whose heads go) the mean of them.
  double mixers = 0.0;
  for (const BlockConfig& block : model.blocks) mixers += mixer_weights(block);
  sizes.group = mixers / static_cast<double>(model.num_layers()) / static_cast<double>(model.num_kv_heads);
  return sizes;
}

std::int64_t block_parameters(const ModelConfig& model, const ShrinkShape& shape) {
  const UnitWeights sizes = unit_weights(model);
  double sum = 0.0;
  // Lists count the layers that go, too, with nothing in them.
  const std::int64_t listed =
      std::ssize(!shape.layer_channels.empty() ? shape.layer_channels : shape.layer_groups);
  for (std::int64_t layer = 0; layer < std::max(shape.layers, listed); ++layer) {
    sum += sizes.channel * static_cast<double>(shape.channels_in(layer)) +
           sizes.group * static_cast<double>(shape.groups_in(layer));
  }
  return std::llround(sum);
}

double ratio_of(const ModelConfig& model, const ShrinkShape& shape) {
  return 1.0 - static_cast<double>(block_parameters(model, shape)) /
                   static_cast<double>(block_parameters(model, shape_of(model)));
}

double ratio_for_parameters(const ModelConfig& model, std::int64_t total, std::int64_t target) {
  const std::int64_t blocks = block_parameters(model, shape_of(model));
  if (target >= total || target <= total - blocks) {
    bad_usage(
        "--target-params: found {}, expected between {} (nothing left in the blocks) and {} (the model)",
        target, total - blocks, total);
  }
  return static_cast<double>(total - target) / static_cast<double>(blocks);
}

std::vector<ShrinkShape> shapes_for(const ModelConfig& model, const ShapeRequest& request) {
  check_request(model, request);
  const ShrinkShape full = shape_of(model);
  const double wanted = (1.0 - request.ratio) * static_cast<double>(block_parameters(model, full));
  const bool mlp = request.has(UnitKind::kMlp);
  std::vector<ShrinkShape> shapes;
  double nearest = 1.0, most = 0.0;
  const auto distance = [&](const ShrinkShape& s) { return std::abs(ratio_of(model, s) - request.ratio); };
  for (std::int64_t layers = full.layers; layers >= 1; --layers) {
    if (layers < full.layers && !request.has(UnitKind::kLayers)) break;
    for (std::int64_t groups = full.groups; groups >= 1; --groups) {
      if (groups < full.groups && !request.has(UnitKind::kHeads)) break;
      if (!is_loadable(model, groups)) continue;
      ShrinkShape shape{full.channels, groups, layers};
      if (mlp) shape.channels = width_for(model, shape, wanted, request.align);
      most = std::max(most, ratio_of(model, shape));
      if (shape == full) continue;
      nearest = std::min(nearest, distance(shape));
      shapes.push_back(shape);
    }
  }
  // Half a step of what is removed is as near as one can come: a multiple of channels, or one layer or group.
  const auto smaller = [&](std::int64_t channels, std::int64_t groups, std::int64_t layers) {
    return ratio_of(model, {full.channels - channels, full.groups - groups, full.layers - layers});
  };
  const double fine = mlp ? smaller(std::min(request.align, full.channels - 1), 0, 0) : 0.0;
  const double coarse = std::max({fine, request.has(UnitKind::kLayers) ? smaller(0, 0, 1) : 0.0,
                                  request.has(UnitKind::kHeads) ? smaller(0, 1, 0) : 0.0});
  if (shapes.empty() || (request.ratio > most && nearest > 0.5 * coarse)) {
    std::vector<std::string_view> names;
    for (const UnitKind kind : request.units) names.push_back(name_of(kind));
    bad_usage(
        "--ratio: found {}, expected at most {:.3f}: of {} at least {} must be left in every block; add "
        "units or lower the ratio",
        request.ratio, most, fmt::join(names, ", "),
        mlp ? fmt::format("{} channels (--align), one head group and one layer", request.align)
            : "one head group and one layer");
  }
  constexpr double kSlack = 1e-9;
  const double limit = std::max(nearest, 0.5 * fine) + kSlack;
  std::erase_if(shapes, [&](const ShrinkShape& s) { return distance(s) > limit; });
  return shapes;
}

}  // namespace swiftprune
