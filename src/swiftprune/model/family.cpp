#include "swiftprune/model/family.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include <fmt/ranges.h>

#include "swiftprune/checkpoint/text_tower.h"
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
      kLlamaFamily,     kMistralFamily,    kQwen2Family,         kQwen3Family,      kGemmaFamily,
      kGemma2Family,    kGemma3Family,     kGemma4Family,        kGptNeoxFamily,    kPhi3Family,
      kOptFamily,       kSmolLm3Family,    kOlmoFamily,          kOlmo2Family,      kOlmo3Family,
      kGraniteFamily,   kGraniteMoeFamily, kGraniteHybridFamily, kMinistralFamily,  kMinistral3Family,
      kExaone4Family,   kGlmFamily,        kGlm4Family,          kStarcoder2Family, kStableLmFamily,
      kPhiFamily,       kGptJFamily,       kCohereFamily,        kCohere2Family,    kApertusFamily,
      kNemotronHFamily, kArceeFamily,      kNemotronFamily,      kGpt2Family,       kBloomFamily,
      kMptFamily,       kLfm2Family,       kLfm2MoeFamily,       kFalconH1Family,   kQwen35Family,
      kQwen35MoeFamily, kQwen3NextFamily,  kQwen2MoeFamily,      kQwen3MoeFamily,   kMixtralFamily,
      kOlmoeFamily,     kGlm4MoeFamily,    kGptOssFamily,        kDeepseekV2Family, kDeepseekV3Family,
  };
  return families;
}

namespace {

// The supported type whose name begins like this one's, four letters at least, or empty.
std::string_view nearest_relative(std::string_view type) {
  std::size_t most = 3;
  std::string_view nearest;
  for (const ModelFamily& family : all_families()) {
    for (const std::string_view known : family.model_types) {
      const std::size_t shared = static_cast<std::size_t>(
          std::mismatch(known.begin(), known.end(), type.begin(), type.end()).first - known.begin());
      if (shared <= most) continue;
      most = shared;
      nearest = known;
    }
  }
  return nearest;
}

[[noreturn]] void refuse_type(const nlohmann::json& config, const ConfigReader& text,
                              const std::string& type) {
  const std::string own_code = code_of(config);
  const std::string_view relative = nearest_relative(type);
  std::string reason;
  if (!own_code.empty()) {
    reason += fmt::format(
        "the folder brings code of its own (auto_map: {}), which is not run: it could do anything on this "
        "machine, and "
        "what is pruned must be computed here; ",
        own_code);
  }
  if (!relative.empty()) reason += fmt::format("the nearest relative that is supported is {}; ", relative);
  if (text_tower_of(config) == nullptr && has_text_config(config)) {
    std::vector<std::string_view> towers;
    for (const TextTower& tower : text_towers()) towers.push_back(tower.model_type);
    reason += fmt::format("of models with a text_config {} are known; ", fmt::join(towers, ", "));
  }
  std::vector<std::string_view> supported;
  for (const ModelFamily& family : all_families()) {
    supported.insert(supported.end(), family.model_types.begin(), family.model_types.end());
  }
  bad_input(
      "{}: found '{}', which is not supported; {}`swiftprune families` tells what is, docs/architecture.md "
      "how to add "
      "a family; expected one of {}",
      text.where("model_type"), type, reason, fmt::join(supported, ", "));
}

}  // namespace

const ModelFamily& family_for(const nlohmann::json& config) {
  const nlohmann::json text_config = text_model_config(config);
  const bool nested = text_tower_of(config) != nullptr && has_text_config(config);
  const ConfigReader text(text_config, nested ? "text_config." : "");
  const std::string type = text.text("model_type");
  for (const ModelFamily& family : all_families()) {
    if (std::find(family.model_types.begin(), family.model_types.end(), type) != family.model_types.end())
      return family;
  }
  refuse_type(config, text, type);
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

namespace {

void for_each_tensor_name(ModelConfig& m, const std::function<void(std::string&)>& rename) {
  const auto norm = [&](std::optional<NormTensors>& tensors) {
    if (!tensors) return;
    rename(tensors->gain);
    rename(tensors->bias);
  };
  for (std::string* name : {&m.embedding, &m.head, &m.own_head}) rename(*name);
  if (m.position_table) rename(*m.position_table);
  if (m.head_bias) rename(*m.head_bias);
  norm(m.final_norm);
  norm(m.embedding_norm);
  if (m.layer_embeddings) {
    rename(m.layer_embeddings->table);
    rename(m.layer_embeddings->projection);
    rename(m.layer_embeddings->norm.gain);
  }
  for (BlockConfig& b : m.blocks) {
    for (LinearTensors& linear : b.qkv) rename(linear.name);
    for (LinearTensors& linear : b.up) rename(linear.name);
    rename(b.attention_output.name);
    rename(b.down.name);
    for (auto* tensors : {&b.attention_norm, &b.mlp_norm, &b.post_attention_norm, &b.post_mlp_norm,
                          &b.query_norm, &b.key_norm}) {
      norm(*tensors);
    }
    rename(b.sinks);
    if (b.xielu) {
      for (std::string* name : {&b.xielu->alpha_p, &b.xielu->alpha_n, &b.xielu->beta, &b.xielu->eps})
        rename(*name);
    }
    if (b.recurrent) {
      for (const MixerTensor& tensor : tensors_of(*b.recurrent)) rename(*tensor.name);
    }
    if (b.beside) {
      for (const MixerTensor& tensor : tensors_of(b.beside->mixer)) rename(*tensor.name);
      rename(b.beside->input.name);
      rename(b.beside->output.name);
    }
    if (b.layer_input) {
      for (std::string* name :
           {&b.layer_input->gate, &b.layer_input->projection, &b.layer_input->norm.gain}) {
        rename(*name);
      }
    }
    rename(b.output_scale);
    if (b.latent) {
      for (NormTensors* tensors : {&b.latent->query_norm, &b.latent->norm})
        rename(tensors->gain), rename(tensors->bias);
    }
    if (!b.experts) continue;
    RouterConfig& router = b.experts->router;
    for (std::string* name : {&router.weight, &router.bias, &router.correction_bias, &b.experts->prefix,
                              &b.experts->shared_gate, &b.experts->fused[0], &b.experts->fused[1]}) {
      rename(*name);
    }
  }
}

}  // namespace

namespace {

void check_not_quantized(const ConfigReader& c, const ModelFamily& family) {
  constexpr std::string_view kField = "quantization_config";
  if (!c.has(kField)) return;
  const std::string method = c.child(kField).text("quant_method", "");
  if (family.reads_mxfp4 && method == "mxfp4") return;
  bad_input("{}: found a checkpoint quantised by {}, expected F32, F16 or BF16 weights; dequantise it first",
            c.where(kField), method.empty() ? "an unnamed method (no quant_method)" : json_quoted(method));
}

}  // namespace

ModelConfig model_config(const nlohmann::json& config, std::vector<std::string>* notes) {
  const ModelFamily& family = family_for(config);
  const TextTower* tower = text_tower_of(config);
  const nlohmann::json text_config = text_model_config(config);
  const ConfigReader c(config),
      text(text_config, has_text_config(config) && tower != nullptr ? "text_config." : "");
  if (tower != nullptr && !has_text_config(config) && !config.contains("hidden_size")) {
    bad_input("{}: absent, expected the text model's fields in it, as {} has them", c.where("text_config"),
              tower->model_type);
  }
  check_not_quantized(c, family);
  check_not_quantized(text, family);
  check_fields(text, family.name, family.fields, notes);
  ModelConfig model = family.configure(text);
  if (!is_in_list("layer_types", family.fields)) check_layer_types(text, model);
  if (const std::string own_code = code_of(config); !own_code.empty() && notes != nullptr) {
    notes->push_back(
        fmt::format("config.json: code of the folder's own (auto_map: {}) is not run: the model is computed "
                    "as transformers' {}",
                    own_code, family.name));
  }
  apply_layer_sizes(config, model);
  if (tower != nullptr) {
    for_each_tensor_name(model, [&](std::string& name) { name = tower_tensor_name(*tower, name); });
  }
  return model;
}

std::vector<std::string> NormTensors::names() const {
  std::vector<std::string> result;
  if (!gain.empty() && parts == 0) result.push_back(gain);
  for (std::int64_t i = 0; i < parts; ++i) {
    result.push_back(gain);
    result.back().replace(gain.find('*'), 1, std::to_string(i));
  }
  if (!bias.empty()) result.push_back(bias);
  return result;
}

float QueryScaling::at(std::int64_t position) const {
  return 1.0f + beta * std::log(1.0f + static_cast<float>(position / positions));
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
  if (block.beside) all.push_back(block.beside->input);
  if (block.has_mixer()) all.push_back(block.attention_output);
  if (block.beside) all.push_back(block.beside->output);
  all.insert(all.end(), block.up.begin(), block.up.end());
  if (!block.up.empty()) all.push_back(block.down);
  return all;
}

}  // namespace swiftprune
