#include "swiftprune/report/inspect.h"

#include <algorithm>
#include <set>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json_numbers.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/model/model.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/report/block_linears.h"

namespace swiftprune {
namespace {

std::string pattern_name(const ZeroScan& scan) {
  if (scan.num_zeros == 0) return "dense";
  if (scan.num_zeros == scan.numel()) return "all zero";
  if (const auto pattern = find_pattern(scan)) return format(*pattern);
  // Models come with zeros of their own, embeddings with whole rows of them.
  return scan.sparsity() < 0.05 ? "dense" : "unstructured";
}

TensorInspection inspect_tensor(const Checkpoint& checkpoint, const TensorInfo& info) {
  TensorInspection tensor{info.name,        info.dtype, info.shape, info.file, info.numel(),
                          info.num_bytes(), false,      {},         ""};
  if (is_weight_dtype(info.dtype)) {
    const std::int64_t cols = info.shape.empty() ? 1 : info.shape.back();
    const std::int64_t rows = cols == 0 ? 0 : tensor.numel / cols;
    tensor.zeros = scan_zeros({checkpoint.bytes(info).data(), info.dtype, rows, cols, cols});
    tensor.pattern = pattern_name(*tensor.zeros);
  }
  checkpoint.release(info);
  return tensor;
}

// The newest record that has them; it may come from anyone, so what is not as it should be is left out.
std::vector<LayerRouting> routing_of(const nlohmann::json& record) {
  const auto member = [](const nlohmann::json& of, const char* key) -> const nlohmann::json* {
    const auto found = of.is_object() ? of.find(key) : of.end();
    return of.is_object() && found != of.end() ? &*found : nullptr;
  };
  for (const nlohmann::json* run = &record; run != nullptr; run = member(*run, "previous")) {
    const nlohmann::json* experts = member(*run, "experts");
    const nlohmann::json* layers = experts != nullptr ? member(*experts, "layers") : nullptr;
    if (layers == nullptr || !layers->is_array()) continue;
    std::vector<LayerRouting> routing;
    for (const nlohmann::json& layer : *layers) {
      try {
        LayerRouting of{whole_number(layer.at("layer")), whole_numbers(layer.at("tokens")), 0.0};
        of.entropy = routing_entropy(of.tokens);
        if (!of.tokens.empty()) routing.push_back(std::move(of));
      } catch (const nlohmann::json::exception&) {
        continue;
      }
    }
    if (!routing.empty()) return routing;
  }
  return {};
}

// Experts that one tensor holds count one by one; what they all keep to is what the tensor keeps to.
void inspect_parts(const Checkpoint& checkpoint, const ProgressFn& progress, ModelInspection& inspection) {
  if (!inspection.config) return;
  const StoredWeights stored(checkpoint);
  std::map<std::string, std::set<std::string>> patterns;  // by tensor
  std::int64_t done = 0;
  for (const std::string& name : stored.part_names()) {
    check_interrupt();
    const StoredWeights::Info info = stored.info(name);
    const std::vector<std::byte> bytes = stored.bytes(name);
    const ZeroScan scan = scan_zeros({bytes.data(), info.dtype, info.rows, info.cols, info.cols});
    stored.release(name);
    LinearTotals& totals = inspection.linears;
    ++totals.count;
    totals.numel += info.numel();
    totals.num_zeros += scan.num_zeros;
    const std::string pattern = pattern_name(scan);
    ++totals.patterns[pattern];
    patterns[stored.holder(name)].insert(pattern);
    progress("experts", ++done, std::ssize(stored.part_names()));
  }
  for (TensorInspection& tensor : inspection.tensors) {
    if (!stored.holds_parts(tensor.name)) continue;
    tensor.is_block_linear = true;
    const auto found = patterns.find(tensor.name);
    if (found != patterns.end())
      tensor.pattern = found->second.size() == 1 ? *found->second.begin() : "mixed";
  }
}

std::string config_text(const nlohmann::json& config, const char* key) {
  const auto value = config.find(key);
  if (value == config.end()) return "";
  if (value->is_array() && !value->empty() && value->front().is_string()) return value->front();
  return value->is_string() ? value->get<std::string>() : "";
}

void understand(ModelInspection& inspection, const Checkpoint& checkpoint) {
  inspection.model_type = config_text(checkpoint.config(), "model_type");
  inspection.architecture = config_text(checkpoint.config(), "architectures");
  try {
    inspection.config = Model::open(inspection.folder)->config();
    inspection.is_tied = inspection.config->head == inspection.config->embedding;
  } catch (const Error& error) {
    inspection.problem = error.what();
    inspection.is_tied = checkpoint.config().value("tie_word_embeddings", nlohmann::json()) == true;
  }
}

nlohmann::ordered_json config_json(const ModelConfig& config) {
  nlohmann::ordered_json json = {{"family", config.family},
                                 {"layers", config.num_layers()},
                                 {"hidden_size", config.hidden_size},
                                 {"intermediate_size", config.intermediate_size},
                                 {"heads", config.num_heads},
                                 {"kv_heads", config.num_kv_heads},
                                 {"head_size", config.head_size},
                                 {"vocab_size", config.vocab_size},
                                 {"max_positions", config.max_positions}};
  if (const ExpertsConfig* experts = experts_of(config)) {
    const auto layers = std::count_if(config.blocks.begin(), config.blocks.end(),
                                      [](const BlockConfig& block) { return block.experts.has_value(); });
    std::vector<std::int64_t> counts;
    for (const BlockConfig& block : config.blocks) {
      if (block.experts) counts.push_back(block.experts->count);
    }
    // One number, or one for each layer that has experts.
    const bool differ = std::ranges::any_of(counts, [&](std::int64_t n) { return n != counts.front(); });
    json["experts"] = {
        {"count", differ ? nlohmann::ordered_json(counts) : nlohmann::ordered_json(experts->count)},
        {"a_token", experts->router.top_k},
        {"width", experts->width},
        {"layers", layers}};
  }
  return json;
}

nlohmann::ordered_json tensor_json(const TensorInspection& tensor) {
  nlohmann::ordered_json json = {{"name", tensor.name},       {"dtype", name_of(tensor.dtype)},
                                 {"shape", tensor.shape},     {"file", tensor.file},
                                 {"bytes", tensor.num_bytes}, {"block_linear", tensor.is_block_linear}};
  if (tensor.zeros) {
    json["zeros"] = tensor.zeros->num_zeros;
    json["sparsity"] = tensor.zeros->sparsity();
    json["pattern"] = tensor.pattern;
    json["zero_rows"] = tensor.zeros->num_zero_rows;
    json["zero_columns"] = tensor.zeros->num_zero_cols;
    json["not_finite"] = tensor.zeros->num_not_finite;
  }
  return json;
}

}  // namespace

ModelInspection inspect_model(const std::filesystem::path& folder, const ProgressFn& progress) {
  const Checkpoint checkpoint = Checkpoint::open(folder);
  ModelInspection inspection;
  inspection.folder = folder;
  inspection.notes = checkpoint.notes();
  std::error_code ignored;
  inspection.has_record = std::filesystem::exists(folder / "swiftprune.json", ignored);
  understand(inspection, checkpoint);
  const std::set<std::string> linears = block_linear_names(checkpoint);
  const auto total = static_cast<std::int64_t>(checkpoint.tensors().size());
  for (const TensorInfo& info : checkpoint.tensors()) {
    check_interrupt();
    TensorInspection tensor = inspect_tensor(checkpoint, info);
    tensor.is_block_linear = linears.contains(tensor.name);
    inspection.num_parameters += tensor.numel;
    inspection.num_bytes += tensor.num_bytes;
    inspection.bytes_of_dtype[std::string(name_of(tensor.dtype))] += tensor.num_bytes;
    inspection.bytes_of_file[tensor.file] += tensor.num_bytes;
    if (tensor.is_block_linear && tensor.zeros) {
      LinearTotals& totals = inspection.linears;
      ++totals.count;
      totals.numel += tensor.numel;
      totals.num_zeros += tensor.zeros->num_zeros;
      ++totals.patterns[tensor.pattern];
    }
    inspection.tensors.push_back(std::move(tensor));
    progress("inspect", static_cast<std::int64_t>(inspection.tensors.size()), total);
  }
  inspect_parts(checkpoint, progress, inspection);
  if (inspection.has_record) inspection.routing = routing_of(read_json_file(folder / "swiftprune.json"));
  return inspection;
}

std::vector<TensorGroup> group_tensors(const ModelInspection& inspection) {
  std::vector<TensorGroup> groups;
  std::map<std::string, std::size_t> index;
  for (const TensorInspection& tensor : inspection.tensors) {
    const std::string name = with_block_star(tensor.name);
    const auto [entry, is_new] = index.emplace(name, groups.size());
    const double sparsity = tensor.zeros ? tensor.zeros->sparsity() : 0.0;
    if (is_new) {
      groups.push_back({name, tensor.dtype, tensor.shape, 0, 0, 0, sparsity, sparsity, tensor.pattern,
                        tensor.is_block_linear});
    }
    TensorGroup& group = groups[entry->second];
    ++group.count;
    group.numel += tensor.numel;
    group.num_zeros += tensor.zeros ? tensor.zeros->num_zeros : 0;
    group.min_sparsity = std::min(group.min_sparsity, sparsity);
    group.max_sparsity = std::max(group.max_sparsity, sparsity);
    if (group.pattern != tensor.pattern) group.pattern = "mixed";
  }
  return groups;
}

nlohmann::ordered_json to_json(const ModelInspection& inspection, bool with_tensors) {
  nlohmann::ordered_json json = {{"folder", inspection.folder.string()},
                                 {"model_type", inspection.model_type},
                                 {"architecture", inspection.architecture},
                                 {"supported", inspection.config.has_value()}};
  if (inspection.config) {
    json["config"] = config_json(*inspection.config);
  } else {
    json["problem"] = inspection.problem;
  }
  json["pruned_by_swiftprune"] = inspection.has_record;
  json["tied_embeddings"] = inspection.is_tied;
  json["parameters"] = inspection.num_parameters;
  json["bytes"] = inspection.num_bytes;
  json["dtypes"] = inspection.bytes_of_dtype;
  json["files"] = inspection.bytes_of_file;
  const LinearTotals& linears = inspection.linears;
  json["block_linears"] = {{"count", linears.count},
                           {"parameters", linears.numel},
                           {"zeros", linears.num_zeros},
                           {"sparsity", linears.sparsity()},
                           {"patterns", linears.patterns}};
  if (!inspection.routing.empty()) {
    auto& routing = json["routing"] = nlohmann::ordered_json::array();
    for (const LayerRouting& layer : inspection.routing)
      routing.push_back({{"layer", layer.layer}, {"tokens", layer.tokens}, {"entropy", layer.entropy}});
  }
  if (!with_tensors) return json;
  json["tensors"] = nlohmann::ordered_json::array();
  for (const TensorInspection& tensor : inspection.tensors) json["tensors"].push_back(tensor_json(tensor));
  return json;
}

}  // namespace swiftprune
