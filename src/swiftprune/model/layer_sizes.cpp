#include "swiftprune/model/layer_sizes.h"

#include <algorithm>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/config_reader.h"
#include "swiftprune/model/router.h"

namespace swiftprune {
namespace {

// Empty when the list is absent.
std::vector<std::int64_t> read_list(const ConfigReader& sizes, std::string_view key, std::int64_t layers) {
  if (!sizes.has(key)) return {};
  std::vector<std::int64_t> found = sizes.integers(key);
  if (std::ssize(found) != layers) {
    bad_input("{}: found {} numbers, expected one for each of the {} layers", sizes.where(key), found.size(),
              layers);
  }
  return found;
}

std::vector<std::int64_t> read_sizes(const ConfigReader& sizes, std::string_view key, std::int64_t layers,
                                     std::int64_t largest) {
  std::vector<std::int64_t> found = read_list(sizes, key, layers);
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i] < 1 || found[i] > largest) {
      bad_input("{}: found {} for layer {}, expected a number from 1 to {}, the model's own",
                sizes.where(key), found[i], i, largest);
    }
  }
  return found;
}

// Experts of the blocks that have them; false when there is no such list.
bool apply_expert_counts(const ConfigReader& sizes, ModelConfig& model) {
  const std::vector<std::int64_t> counts = read_list(sizes, kLayerExperts, model.num_layers());
  for (std::size_t i = 0; i < counts.size(); ++i) {
    std::optional<ExpertsConfig>& experts = model.blocks[i].experts;
    const std::int64_t least = experts ? 1 : 0, largest = experts ? experts->count : 0;
    if (counts[i] < least || counts[i] > largest) {
      bad_input("{}: found {} for layer {}, expected {}", sizes.where(kLayerExperts), counts[i], i,
                experts ? fmt::format("a number from 1 to {}, as '{}' says", largest, experts->count_field)
                        : "0, since it has no experts");
    }
    if (!experts) continue;
    if (const auto problem = router_problem(experts->router, counts[i])) {
      bad_input("{}: found {} for layer {}, for a router with {}", sizes.where(kLayerExperts), counts[i], i,
                *problem);
    }
    experts->count = counts[i];
  }
  return !counts.empty();
}

}  // namespace

void apply_layer_sizes(const nlohmann::json& config, ModelConfig& model) {
  const auto text = config.find("text_config");
  const ConfigReader c(text != config.end() ? *text : config);
  if (!c.has(kLayerSizesField)) return;
  const ConfigReader sizes = c.child(kLayerSizesField);
  for (const auto& [key, value] : sizes.object().items()) {
    if (key == kLayerWidths || key == kLayerGroups || key == kLayerExperts) continue;
    bad_input("{}: unknown, expected {}, {} or {}", sizes.where(key), kLayerWidths, kLayerGroups,
              kLayerExperts);
  }
  const auto widths = read_sizes(sizes, kLayerWidths, model.num_layers(), model.intermediate_size);
  const auto groups = read_sizes(sizes, kLayerGroups, model.num_layers(), model.num_kv_heads);
  if (!groups.empty() && model.has_recurrent_blocks()) {
    bad_input("{}: found a list, expected none: blocks of {} have more than attention's heads",
              sizes.where(kLayerGroups), model.family);
  }
  for (std::size_t i = 0; i < model.blocks.size(); ++i) {
    BlockConfig& block = model.blocks[i];
    if (!widths.empty()) {
      for (LinearTensors& up : block.up) up.outputs = up.outputs / model.intermediate_size * widths[i];
      block.down.inputs = widths[i];
    }
    if (!groups.empty()) {
      for (LinearTensors& part : block.qkv) part.outputs = part.outputs / model.num_kv_heads * groups[i];
      block.attention_output.inputs = block.attention_output.inputs / model.num_kv_heads * groups[i];
    }
  }
  const bool counts = apply_expert_counts(sizes, model);
  model.has_layer_sizes = !widths.empty() || !groups.empty() || counts;
}

}  // namespace swiftprune
