#include "swiftprune/pipeline/record.h"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/ranges.h>

#include "swiftprune/checkpoint/gguf.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/json.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/sha256.h"
#include "swiftprune/model/adapter.h"
#include "swiftprune/pipeline/adapter_output.h"

namespace swiftprune {
namespace {

// Share of zeros and largest output error of each block's linears.
nlohmann::ordered_json block_records(const Plan& plan, const PruneResult& result) {
  struct BlockOfRecord {
    double weights = 0.0;
    double zeros = 0.0;
    std::optional<double> error;
  };
  std::map<std::int64_t, BlockOfRecord> blocks;
  std::map<std::string, std::int64_t> layer_of;
  for (const PlanEntry& entry : plan.entries) {
    blocks[entry.layer].weights += entry.num_weights();
    layer_of[entry.tensor] = entry.layer;
  }
  for (const TensorResult& tensor : result.tensors) {
    BlockOfRecord& block = blocks[layer_of.at(tensor.name)];
    block.zeros += tensor.sparsity * static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
    if (tensor.error) block.error = std::max(block.error.value_or(0.0), *tensor.error);
  }
  nlohmann::ordered_json records = nlohmann::ordered_json::array();
  for (const auto& [layer, block] : blocks) {
    nlohmann::ordered_json record = {{"layer", layer}, {"sparsity", block.zeros / block.weights}};
    if (block.error) record["largest_output_error"] = *block.error;
    records.push_back(std::move(record));
  }
  return records;
}

nlohmann::ordered_json tensor_record(const TensorResult& tensor) {
  nlohmann::ordered_json item = {{"name", tensor.name},
                                 {"rows", tensor.rows},
                                 {"cols", tensor.cols},
                                 {"pattern", tensor.pattern},
                                 {"asked_sparsity", tensor.asked_sparsity},
                                 {"sparsity", tensor.sparsity}};
  if (tensor.error) item["output_error"] = *tensor.error;
  if (tensor.damping) item["damping"] = *tensor.damping;
  if (tensor.lambda) item["lambda"] = *tensor.lambda;
  if (tensor.low_rank > 0) item["low_rank"] = tensor.low_rank;
  if (!tensor.order.empty()) item["channel_order"] = fmt::format("{}", fmt::join(tensor.order, " "));
  return item;
}

// What the experts were pruned by, and what of a model with experts no plan prunes.
nlohmann::ordered_json experts_record(const Model& model, const Plan& plan, const PruneOptions& options,
                                      const PruneResult& result) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const auto& [layer, tokens] : result.expert_tokens) {
    nlohmann::ordered_json pooled = nlohmann::ordered_json::array();
    for (std::size_t e = 0; e < tokens.size(); ++e) {
      if (tokens[e] < options.min_expert_tokens) pooled.push_back(e);
    }
    layers.push_back({{"layer", layer},
                      {"tokens", tokens},
                      {"routing_entropy", routing_entropy(tokens)},
                      {"from_all_tokens", std::move(pooled)}});
  }
  nlohmann::ordered_json kept = nlohmann::ordered_json::array();
  for (const BlockConfig& block : model.config().blocks) {
    if (!block.experts) continue;
    for (const std::string& name : {block.experts->router.weight, block.experts->shared_gate}) {
      if (!name.empty()) kept.push_back(name);
    }
  }
  for (const PlanEntry& entry : plan.entries) {
    if (!entry.observed && !entry.prune) kept.push_back(entry.tensor);
  }
  return {{"min_tokens", options.min_expert_tokens},
          {"layers", std::move(layers)},
          {"never_pruned", std::move(kept)}};
}

}  // namespace

nlohmann::ordered_json calibration_record(const CalibrationRecord& calibration) {
  nlohmann::ordered_json record = {{"source", calibration.source},
                                   {"ids", calibration.ids},
                                   {"windows", calibration.windows},
                                   {"seqlen", calibration.seqlen},
                                   {"seed", calibration.seed}};
  for (const CalibrationRecord::Text& text : calibration.texts) {
    record["texts"].push_back({{"file", text.file}, {"weight", text.weight}, {"windows", text.windows}});
  }
  if (calibration.stopping) {
    record["stopping"] = {{"stable", calibration.stopping->stable},
                          {"changes", calibration.stopping->changes}};
  }
  return record;
}

nlohmann::ordered_json machine_record() {
  return {{"cpu", cpu_model_name()}, {"instruction_set", isa_name()}, {"threads", num_threads()}};
}

nlohmann::ordered_json seconds_record(const ShrinkSeconds& seconds) {
  return {{"load", seconds.load},
          {"forward", seconds.forward},
          {"solve", seconds.solve},
          {"write", seconds.write},
          {"total", seconds.total}};
}

std::set<std::string> model_files(const Checkpoint& checkpoint) {
  std::set<std::string> files = {"config.json"};
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    for (const std::filesystem::path& part : gguf_parts(tensor.file)) files.insert(part.string());
  }
  return files;
}

nlohmann::ordered_json model_hashes(const Checkpoint& checkpoint) {
  const std::set<std::string> files = model_files(checkpoint);
  const std::vector<std::string> list(files.begin(), files.end());
  std::vector<std::string> digests(list.size());
  parallel_for(static_cast<std::int64_t>(list.size()), 1, [&](std::int64_t first, std::int64_t last) {
    for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
      digests[i] = "sha256:" + sha256_file(checkpoint.folder() / list[i]);
    }
  });
  nlohmann::ordered_json hashes = nlohmann::ordered_json::object();
  for (std::size_t i = 0; i < list.size(); ++i) hashes[list[i]] = digests[i];
  return hashes;
}

nlohmann::ordered_json file_stamps(const Checkpoint& checkpoint) {
  nlohmann::ordered_json stamps;
  for (const std::string& file : model_files(checkpoint)) {
    const std::filesystem::path path = checkpoint.folder() / file;
    stamps[file] = {std::filesystem::file_size(path),
                    std::filesystem::last_write_time(path).time_since_epoch().count()};
  }
  return stamps;
}

nlohmann::ordered_json previous_record(const Checkpoint& checkpoint) {
  const std::filesystem::path file = checkpoint.folder() / "swiftprune.json";
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) return {};
  return read_json_file(file);
}

nlohmann::ordered_json make_record(const Model& model, const Plan& plan, const std::string& method,
                                   const PruneOptions& options, const CalibrationRecord& calibration,
                                   const std::optional<Allocation>& allocation, const PruneResult& result,
                                   const nlohmann::ordered_json& command,
                                   const nlohmann::ordered_json& hashes) {
  nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
  for (const TensorResult& tensor : result.tensors) tensors.push_back(tensor_record(tensor));
  if (allocation) {
    std::map<std::string, double> sensitivity_of;
    for (std::size_t i = 0; i < plan.entries.size(); ++i)
      sensitivity_of[plan.entries[i].tensor] = allocation->sensitivities[i];
    for (auto& tensor : tensors) tensor["sensitivity"] = sensitivity_of.at(tensor["name"].get<std::string>());
  }
  if (plan.quantizes()) {
    std::map<std::string, QuantGrid> grids;
    for (const PlanEntry& entry : plan.entries)
      if (entry.prune && entry.grid) grids[entry.tensor] = *entry.grid;
    for (auto& tensor : tensors) {
      const auto grid = grids.find(tensor["name"].get<std::string>());
      if (grid != grids.end()) tensor["quantize"] = format(grid->second);
    }
  }
  const StageSeconds& s = result.seconds;
  nlohmann::ordered_json record = {{"swiftprune", SWIFTPRUNE_VERSION},
                                   {"command", command},
                                   {"method", method},
                                   {"family", model.config().family},
                                   {"weights_changed", result.weights_changed},
                                   {"asked_sparsity", plan.sparsity()},
                                   {"sparsity", result.sparsity},
                                   {"resumed_blocks", result.resumed_blocks},
                                   {"select", name_of(options.select)},
                                   {"propagate", name_of(options.propagation)},
                                   {"permute", name_of(plan.permute)},
                                   {"compute", options.compute == ComputeType::kBF16 ? "bf16" : "f32"},
                                   {"calibration", calibration_record(calibration)},
                                   {"input", hashes.is_null() ? model_hashes(model.checkpoint()) : hashes},
                                   {"machine", machine_record()},
                                   {"seconds",
                                    {{"allocate", allocation ? allocation->seconds : 0.0},
                                     {"load", s.load},
                                     {"calibrate", s.calibrate},
                                     {"score", s.score},
                                     {"select", s.select},
                                     {"refine", s.refine},
                                     {"write", s.write},
                                     {"total", s.total + (allocation ? allocation->seconds : 0.0)}}},
                                   {"blocks", block_records(plan, result)}};
  if (plan.low_rank() > 0) {
    std::int64_t bytes = 0, parameters = 0;
    for (const PlannedTensor& tensor : plan_adapter(model.checkpoint(), plan)) {
      parameters += tensor.shape[0] * tensor.shape[1];
      bytes += tensor.shape[0] * tensor.shape[1] * size_of(tensor.dtype);
    }
    record["low_rank"] = {
        {"rank", plan.low_rank()}, {"folder", kAdapterFolder}, {"parameters", parameters}, {"bytes", bytes}};
  }
  if (model.config().has_experts()) record["experts"] = experts_record(model, plan, options, result);
  record["tensors"] = std::move(tensors);
  return record;
}

}  // namespace swiftprune
