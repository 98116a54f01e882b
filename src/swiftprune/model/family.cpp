#include "swiftprune/model/family.h"

#include <algorithm>
#include <array>

#include "swiftprune/core/error.h"
#include "swiftprune/model/config_reader.h"
#include "swiftprune/model/layer_sizes.h"

namespace swiftprune {

std::span<const ModelFamily> all_families() {
  static const std::array families = {
      kLlamaFamily,  kMistralFamily, kQwen2Family, kQwen3Family, kGemma2Family,
      kGemma3Family, kGptNeoxFamily, kPhi3Family,  kOptFamily,
  };
  return families;
}

const ModelFamily& family_for(const nlohmann::json& config) {
  const std::string type = ConfigReader(config).text("model_type");
  std::string supported;
  for (const ModelFamily& family : all_families()) {
    if (std::find(family.model_types.begin(), family.model_types.end(), type) != family.model_types.end())
      return family;
    for (const std::string_view name : family.model_types)
      supported += fmt::format("{}{}", supported.empty() ? "" : ", ", name);
  }
  bad_input(
      "config.json: field 'model_type': found '{}', expected one of {}; docs/architecture.md shows how to "
      "add a family",
      type, supported);
}

ModelConfig model_config(const nlohmann::json& config) {
  const ModelFamily& family = family_for(config);
  const ConfigReader c(config);
  if (c.has("quantization_config")) {
    bad_input("{}: found a quantised checkpoint, expected F32, F16 or BF16 weights; dequantise it first",
              c.where("quantization_config"));
  }
  ModelConfig model = family.configure(config);
  apply_layer_sizes(config, model);
  return model;
}

std::string_view name_of(LinearInput input) {
  switch (input) {
    case LinearInput::kAttention:
      return "attention";
    case LinearInput::kAttentionOutput:
      return "attention_output";
    case LinearInput::kMlp:
      return "mlp";
    case LinearInput::kMlpOutput:
      return "mlp_output";
  }
  return "?";
}

std::vector<std::string> tables_of(const ModelConfig& model) {
  if (model.head == model.embedding) return {model.embedding};
  return {model.embedding, model.head};
}

std::vector<LinearTensors> linears_of(const BlockConfig& block) {
  std::vector<LinearTensors> all = block.qkv;
  all.push_back(block.attention_output);
  all.insert(all.end(), block.up.begin(), block.up.end());
  all.push_back(block.down);
  return all;
}

}  // namespace swiftprune
