#include "swiftprune/pipeline/shrink_plan.h"

#include <vector>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kChannels = "intermediate_size";
constexpr const char* kGroups = "num_key_value_heads";
constexpr const char* kRemoved = "removed";

Json dense_json(const ModelConfig& model) {
  return {{"family", model.family},
          {"hidden_size", model.hidden_size},
          {"num_hidden_layers", model.num_layers()},
          {kChannels, model.intermediate_size},
          {kGroups, model.num_kv_heads}};
}

void check_dense(const JsonField& dense, const ModelConfig& model) {
  const Json expected = dense_json(model);
  for (const auto& [name, value] : expected.items()) {
    const JsonField found = dense.at(name);
    if (found.json() == nlohmann::json(value)) continue;
    bad_input("{}: found {}, expected {}; the plan is of another model", found.where(),
              json_excerpt(found.json()), value.dump());
  }
}

void check_units(const ModelConfig& model, const ShapeChoice& plan) {
  const ShrinkShape full = shape_of(model);
  const auto check = [&](bool loses, UnitKind kind) {
    if (!loses) return;
    if (const auto reason = inseparable(model, kind))
      bad_usage("--plan: {} cannot be removed from this model: {}", name_of(kind), *reason);
  };
  check(loses_units(model, plan.shape, LinearInput::kMlpOutput), UnitKind::kMlp);
  check(loses_units(model, plan.shape, LinearInput::kAttentionOutput), UnitKind::kHeads);
  check(plan.shape.layers < full.layers, UnitKind::kLayers);
}

}  // namespace

Json shrink_plan_document(const ModelConfig& model, const ShapeChoice& plan) {
  Json layers = Json::array();
  std::size_t next = 0;
  for (std::int64_t layer = 0; layer < model.num_layers(); ++layer) {
    const bool removed = next < plan.removed_layers.size() && plan.removed_layers[next] == layer;
    if (removed) ++next;
    layers.push_back(
        removed ? Json{{kRemoved, true}}
                : Json{{kChannels, plan.shape.channels_in(layer)}, {kGroups, plan.shape.groups_in(layer)}});
  }
  return {{"dense", dense_json(model)}, {"layers", std::move(layers)}};
}

ShapeChoice read_shrink_plan(const std::string& path, const ModelConfig& model) {
  const nlohmann::json document = read_json_file(path);
  if (document.is_object() && document.contains("tensors")) {
    bad_input(
        "{}: found a plan of linears, which prune --plan runs; expected one of layers, as tune --units "
        "writes it",
        path);
  }
  const JsonField root(document, path);
  check_dense(root.at("dense"), model);
  const std::vector<JsonField> items = root.at("layers").items();
  if (std::ssize(items) != model.num_layers()) {
    bad_input("{}: found {} layers, expected {}, one for each of the dense model's", path, items.size(),
              model.num_layers());
  }
  ShapeChoice plan;
  std::vector<std::int64_t> channels, groups;
  for (std::size_t layer = 0; layer < items.size(); ++layer) {
    const JsonField& item = items[layer];
    const bool removed = item.boolean_or(kRemoved, false);
    if (removed) plan.removed_layers.push_back(static_cast<std::int64_t>(layer));
    channels.push_back(removed ? 0 : item.at(kChannels).integer(1, model.intermediate_size));
    groups.push_back(removed ? 0 : item.at(kGroups).integer(1, model.num_kv_heads));
  }
  if (std::ssize(plan.removed_layers) == model.num_layers())
    bad_input("{}: every layer is removed, expected one at least to stay", path);
  plan.shape = shape_of_layers(std::move(channels), std::move(groups));
  if (plan.shape == shape_of(model)) bad_input("{}: nothing is removed from any layer", path);
  check_units(model, plan);
  plan.measured = Json::object();
  return plan;
}

}  // namespace swiftprune
