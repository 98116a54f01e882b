#include "swiftprune/model/family.h"

#include <algorithm>
#include <array>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/config_fields.h"
#include "swiftprune/model/config_reader.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/layer_sizes.h"

namespace swiftprune {
namespace {

// What auto_map calls the code for a causal model, or for anything; empty without auto_map.
std::string code_of(const nlohmann::json& config) {
  const auto map = config.find("auto_map");
  if (map == config.end() || !map->is_object()) return "";
  std::string first;
  for (const auto& [name, code] : map->items()) {
    const std::string text = code.is_string() ? json_quoted(code.get_ref<const std::string&>()) : "?";
    if (name == "AutoModelForCausalLM") return text;
    if (first.empty()) first = text;
  }
  return first;
}

}  // namespace

std::span<const ModelFamily> all_families() {
  static const std::array families = {
      kLlamaFamily,   kMistralFamily, kQwen2Family,  kQwen3Family,      kGemma2Family,     kGemma3Family,
      kGptNeoxFamily, kPhi3Family,    kOptFamily,    kQwen2MoeFamily,   kQwen3MoeFamily,   kMixtralFamily,
      kOlmoeFamily,   kGlm4MoeFamily, kGptOssFamily, kDeepseekV2Family, kDeepseekV3Family,
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
  const std::string own_code = code_of(config);
  bad_input(
      "config.json: field 'model_type': found '{}', expected one of {}; {}docs/architecture.md shows how to "
      "add a family",
      type, supported,
      own_code.empty()
          ? ""
          : fmt::format("the folder brings code of its own (auto_map: {}), which is not run; ", own_code));
}

namespace {

// layer_types of a family that does not read it: they must say what the family does anyway.
void check_layer_types(const ConfigReader& c, const ModelConfig& model) {
  if (!c.has("layer_types")) return;
  const std::vector<bool> slides = read_sliding_layers(c, model.num_layers(), {});
  for (std::size_t i = 0; i < slides.size(); ++i) {
    if (slides[i] == (model.blocks[i].attention_window > 0)) continue;
    bad_input("{}: found {} in layer {}, expected {}: all layers of {} attend alike", c.where("layer_types"),
              slides[i] ? "sliding_attention" : "full_attention", i,
              slides[i] ? "full_attention" : "sliding_attention", model.family);
  }
}

}  // namespace

ModelConfig model_config(const nlohmann::json& config, std::vector<std::string>* notes) {
  const ModelFamily& family = family_for(config);
  const ConfigReader c(config);
  const bool readable = family.reads_mxfp4 && c.has("quantization_config") &&
                        c.child("quantization_config").text("quant_method", "") == "mxfp4";
  if (c.has("quantization_config") && !readable) {
    bad_input("{}: found a quantised checkpoint, expected F32, F16 or BF16 weights; dequantise it first",
              c.where("quantization_config"));
  }
  // Beside a vision model, the text model's fields are in an object of their own.
  const ConfigReader text = c.has("text_config") ? c.child("text_config") : c;
  check_fields(text, family.name, family.fields, notes);
  ModelConfig model = family.configure(config);
  if (!is_in_list("layer_types", family.fields)) check_layer_types(text, model);
  if (const std::string own_code = code_of(config); !own_code.empty() && notes != nullptr) {
    notes->push_back(
        fmt::format("config.json: code of the folder's own (auto_map: {}) is not run: the model is computed "
                    "as transformers' {}",
                    own_code, family.name));
  }
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
  if (!block.up.empty()) all.push_back(block.down);
  return all;
}

}  // namespace swiftprune
