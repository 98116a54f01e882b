#include "swiftprune/pipeline/adapter_output.h"

#include <algorithm>
#include <map>
#include <set>

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/text_tower.h"
#include "swiftprune/core/error.h"
#include "swiftprune/model/adapter.h"

namespace swiftprune {
namespace {

bool has_part(const PlanEntry& entry) { return entry.prune && entry.low_rank > 0; }

// What PEFT finds the modules by: their last names where all linears of that name have a part, as people write it, else
// whole paths.
std::vector<std::string> target_modules(const Plan& plan) {
  const auto last_name = [](const std::string& linear) { return linear.substr(linear.rfind('.') + 1); };
  std::set<std::string> names, without;
  for (const PlanEntry& entry : plan.entries)
    (has_part(entry) ? names : without).insert(last_name(linear_of(entry.tensor)));
  const bool whole =
      std::none_of(names.begin(), names.end(), [&](const auto& name) { return without.contains(name); });
  if (whole) return {names.begin(), names.end()};
  std::vector<std::string> paths;
  for (const PlanEntry& entry : plan.entries)
    if (has_part(entry)) paths.push_back(linear_of(entry.tensor));
  return paths;
}

}  // namespace

std::string linear_of(std::string_view tensor) {
  constexpr std::string_view kWeight = ".weight";
  expect(tensor.ends_with(kWeight), "linear_of: a linear's weight");
  return std::string(tensor.substr(0, tensor.size() - kWeight.size()));
}

void check_low_rank_plan(const Plan& plan, const Model& model) {
  if (plan.low_rank() == 0) return;
  const auto refuse = [&](std::string_view found, std::string_view expected) {
    bad_usage("--low-rank: found {} with {}, expected {}", plan.low_rank(), found, expected);
  };
  if (plan.permute != Permute::kNone)
    refuse(fmt::format("--permute {}", name_of(plan.permute)), "one of them");
  const ModelConfig& config = model.config();
  if (config.has_experts()) refuse("a model with experts", "a model without");
  // Their fused kernels read the weights past the modules that PEFT puts around them.
  if (config.has_recurrent_blocks()) refuse("recurrent mixers", "attention in every block");
  if (text_tower_of(model.checkpoint().config()) != nullptr)
    refuse("a model that also sees",
           "a text model: its modules have other names in each version of transformers");
  if (config.has_layer_sizes) refuse("blocks of different sizes", "a model that transformers loads");
}

std::vector<PlannedTensor> plan_adapter(const Checkpoint& source, const Plan& plan) {
  const std::string file = std::string(kAdapterFolder) + "/" + kAdapterFile;
  std::vector<PlannedTensor> tensors;
  for (const PlanEntry& entry : plan.entries) {
    if (!has_part(entry)) continue;
    const std::string linear = linear_of(entry.tensor);
    const DType dtype = source.at(entry.tensor).dtype;
    tensors.push_back({adapter_right_name(linear), dtype, {entry.low_rank, entry.cols}, file});
    tensors.push_back({adapter_left_name(linear), dtype, {entry.rows, entry.low_rank}, file});
  }
  return tensors;
}

std::string adapter_config(const Model& model, const Plan& plan, const std::string& base) {
  const std::int64_t rank = plan.low_rank();
  // Alpha is the rank, so that B·A counts once.
  nlohmann::ordered_json config = {{"peft_type", "LORA"},
                                   {"task_type", "CAUSAL_LM"},
                                   {"base_model_name_or_path", base},
                                   {"inference_mode", true},
                                   {"r", rank},
                                   {"lora_alpha", rank},
                                   {"lora_dropout", 0.0},
                                   {"use_rslora", false},
                                   {"use_dora", false},
                                   {"bias", "none"},
                                   {"modules_to_save", nullptr},
                                   {"fan_in_fan_out", model.config().transposed_linears},
                                   {"init_lora_weights", true},
                                   {"target_modules", target_modules(plan)}};
  nlohmann::ordered_json others = nlohmann::ordered_json::object();
  for (const PlanEntry& entry : plan.entries) {
    if (has_part(entry) && entry.low_rank != rank) others[linear_of(entry.tensor)] = entry.low_rank;
  }
  config["rank_pattern"] = others;
  config["alpha_pattern"] = others;
  return config.dump(2) + "\n";
}

}  // namespace swiftprune
