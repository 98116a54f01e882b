#include "swiftprune/pipeline/shrunk_checkpoint.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <numeric>
#include <optional>
#include <utility>

#include "swiftprune/checkpoint/config_file.h"
#include "swiftprune/checkpoint/model_card.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/model/layer_sizes.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

// The layer that a tensor belongs to; nothing outside the blocks.
std::optional<std::int64_t> layer_of(const std::string& name, const std::string& prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  std::int64_t layer = 0;
  const char* last = name.data() + name.size();
  const auto [end, error] = std::from_chars(name.data() + prefix.size(), last, layer);
  if (error != std::errc() || end == last || *end != '.') return std::nullopt;
  return layer;
}

std::map<std::int64_t, std::int64_t> new_indices(std::int64_t layers, std::span<const std::int64_t> removed) {
  std::map<std::int64_t, std::int64_t> result;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    if (std::find(removed.begin(), removed.end(), layer) != removed.end()) continue;
    result.emplace(layer, static_cast<std::int64_t>(result.size()));
  }
  return result;
}

}  // namespace

std::string layers_prefix(const ModelConfig& model) {
  const BlockConfig& first = model.blocks.front();
  const std::vector<LinearTensors> linears = linears_of(first);
  const std::string& name = linears.empty() ? first.experts->prefix : linears.front().name;
  const auto at = name.find(".0.");
  expect(at != std::string::npos, "families number their blocks");
  return name.substr(0, at + 1);
}

ShrunkCheckpoint::ShrunkCheckpoint(const Model& model, const ShrinkShape& shape,
                                   std::span<const std::int64_t> removed_layers, const fs::path& folder,
                                   std::vector<LinearInput> added_biases, const std::string& joined,
                                   std::uint64_t max_shard_bytes)
    : model_(model),
      shape_(shape),
      added_biases_(std::move(added_biases)),
      layers_prefix_(layers_prefix(model.config())),
      new_index_(new_indices(model.config().num_layers(), removed_layers)),
      writer_(folder, plan(max_shard_bytes), Leftover::kUnknown, joined) {}

std::string ShrunkCheckpoint::new_name(const std::string& name) const {
  const auto layer = layer_of(name, layers_prefix_);
  if (!layer) return name;
  const auto index = new_index_.find(*layer);
  if (index == new_index_.end()) return "";
  const std::string_view rest =
      std::string_view(name).substr(layers_prefix_.size() + std::to_string(*layer).size());
  return fmt::format("{}{}{}", layers_prefix_, index->second, rest);
}

std::vector<std::int64_t> ShrunkCheckpoint::new_shape(const TensorInfo& tensor) const {
  const auto layer = layer_of(tensor.name, layers_prefix_);
  if (!layer) return tensor.shape;
  KeptUnits kept = all_units(model_.config());  // any units of the right number
  kept.channels.resize(static_cast<std::size_t>(shape_.channels_in(*layer)));
  kept.groups.resize(static_cast<std::size_t>(shape_.groups_in(*layer)));
  const BlockConfig& block = model_.config().blocks[static_cast<std::size_t>(*layer)];
  const std::vector<LinearTensors> linears = linears_of(block);
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const auto rows = std::ssize(kept_rows(model_.config(), block, i, kept));
    if (tensor.name == linears[i].name + ".bias") return {rows};
    if (tensor.name != linears[i].name + ".weight") continue;
    const LinearInput input = linears[i].input;
    return {rows, is_output(input) ? std::ssize(kept_columns(model_.config(), block, linears[i], kept))
                                   : linears[i].inputs};
  }
  return tensor.shape;
}

std::string ShrunkCheckpoint::added_bias(const std::string& weight) const {
  const auto layer = layer_of(weight, layers_prefix_);
  if (!layer) return "";
  for (const LinearTensors& linear : linears_of(model_.config().blocks[static_cast<std::size_t>(*layer)])) {
    if (linear.bias || weight != linear.name + ".weight") continue;
    const bool added =
        std::find(added_biases_.begin(), added_biases_.end(), output_of(linear.input)) != added_biases_.end();
    return added ? linear.name + ".bias" : "";
  }
  return "";
}

std::vector<PlannedTensor> ShrunkCheckpoint::plan(std::uint64_t max_shard_bytes) {
  std::vector<PlannedTensor> planned;
  bool single = true;
  for (const TensorInfo& tensor : model_.checkpoint().tensors()) {
    const std::string name = new_name(tensor.name);
    if (name.empty()) continue;
    single = single && tensor.file == kSafetensorsFile;
    planned.push_back({name, tensor.dtype, new_shape(tensor), kSafetensorsFile, false, tensor.transposed});
    if (const std::string bias = added_bias(tensor.name); !bias.empty()) {
      planned.push_back({new_name(bias), tensor.dtype, {planned.back().shape.front()}, kSafetensorsFile});
    }
  }
  for (const PlannedTensor& tensor : planned) {
    num_parameters_ +=
        std::accumulate(tensor.shape.begin(), tensor.shape.end(), std::int64_t{1}, std::multiplies<>());
  }
  if (!single) assign_shards(planned, max_shard_bytes);
  return planned;
}

void ShrunkCheckpoint::write_part(const std::string& name, std::int64_t first,
                                  std::span<const std::byte> bytes) {
  writer_.write_bytes_part(new_name(name), first, bytes);
  mark(name);
}

void ShrunkCheckpoint::write_bias(const std::string& name, std::span<const float> values) {
  writer_.write(new_name(name), values);
  mark(name);
}

void ShrunkCheckpoint::mark(const std::string& name) {
  const std::lock_guard lock(mutex_);
  written_.insert(name);
}

// Lists that leave no doubt about who can read them; the usual fields hold the largest sizes.
void ShrunkCheckpoint::set_layer_sizes(Json& config) const {
  Json sizes = Json::object();
  const auto add = [&](std::string_view name, const std::vector<std::int64_t>& of_dense_layers) {
    if (of_dense_layers.empty()) return;
    for (const auto& [layer, index] : new_index_) {
      sizes[std::string(name)].push_back(of_dense_layers[static_cast<std::size_t>(layer)]);
    }
  };
  add(kLayerWidths, shape_.layer_channels);
  add(kLayerGroups, shape_.layer_groups);
  if (!sizes.empty()) config[std::string(kLayerSizesField)] = std::move(sizes);
}

Json ShrunkCheckpoint::config() const {
  const ModelConfig& m = model_.config();
  Json whole = read_config_file(model_.checkpoint());
  Json& config = whole.contains("text_config") ? whole["text_config"] : whole;
  if (m.has_width_field) config[m.intermediate_field] = shape_.channels;
  if (!m.adjusts_width_field.empty()) config[m.adjusts_width_field] = false;
  config[m.layers_field] = shape_.layers;
  if (shape_.groups != m.num_kv_heads) {
    config["num_attention_heads"] = m.num_heads / m.num_kv_heads * shape_.groups;
    config["num_key_value_heads"] = shape_.groups;
    config["head_dim"] = m.head_size;
  }
  set_layer_sizes(config);
  for (const LinearInput output : added_biases_) {
    config[output == LinearInput::kMlpOutput ? m.mlp_bias_field : m.attention_bias_field] = true;
  }
  if (shape_.layers == m.num_layers()) return whole;
  if (!m.rotated_layers_field.empty()) {
    Json rotated = Json::array();
    for (const auto& [layer, index] : new_index_)
      rotated.push_back(m.blocks[static_cast<std::size_t>(layer)].rope >= 0 ? 1 : 0);
    config[m.rotated_layers_field] = std::move(rotated);
  }
  if (!m.blocks.front().layer_type.empty()) {
    Json types = Json::array();
    for (const auto& [layer, index] : new_index_)
      types.push_back(m.blocks[static_cast<std::size_t>(layer)].layer_type);
    config["layer_types"] = std::move(types);
    return whole;
  }
  // Which layers slide follows from their place unless it is said.
  const auto slides = [&](std::int64_t layer) {
    return m.blocks[static_cast<std::size_t>(layer)].attention_window > 0;
  };
  const bool mixed = std::any_of(m.blocks.begin(), m.blocks.end(),
                                 [&](const BlockConfig& b) { return (b.attention_window > 0) != slides(0); });
  if (!mixed && !config.contains("layer_types")) return whole;
  Json types = Json::array();
  for (const auto& [layer, index] : new_index_) {
    types.push_back(slides(layer) ? "sliding_attention" : "full_attention");
  }
  config["layer_types"] = std::move(types);
  return whole;
}

void ShrunkCheckpoint::copy(const TensorInfo& tensor) {
  writer_.write_bytes(new_name(tensor.name), model_.checkpoint().bytes(tensor));
  model_.checkpoint().release(tensor);
  mark(tensor.name);
}

void ShrunkCheckpoint::copy_rest() {
  for (const TensorInfo& tensor : model_.checkpoint().tensors()) {
    if (written_.contains(tensor.name) || new_name(tensor.name).empty() || !takes(tensor.name)) continue;
    check_interrupt();
    copy(tensor);
  }
}

void ShrunkCheckpoint::finish(const Json& record) {
  copy_rest();
  writer_.write_file("config.json", config().dump(2) + "\n");
  writer_.write_file("swiftprune.json", record.dump(1) + "\n");
  write_model_card(model_.checkpoint(), record, false, writer_);
  const std::string plan_of_prune[] = {"plan.json"};
  writer_.copy_other_files(model_.checkpoint(), plan_of_prune);
  writer_.finish();
}

}  // namespace swiftprune
