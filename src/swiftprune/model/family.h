// The list of model families. A family is one file and one line in all_families(): it turns config.json into
// a ModelConfig. How to add one: docs/architecture.md.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/model/config_reader.h"
#include "swiftprune/model/model_config.h"

namespace swiftprune {

struct ModelFamily {
  std::string_view name;  // "llama"
  // The values of config.json's "model_type" that it serves.
  std::span<const std::string_view> model_types;
  // config: of the text model, where there are others beside it.
  ModelConfig (*configure)(const ConfigReader& config);
  // The fields of config.json that configure() reads, beside those that every family does (config_fields.h).
  std::string_view fields;
  bool reads_mxfp4 = false;  // experts quantised as config.json's quantization_config says (expert_tensors.h)
};

std::span<const ModelFamily> all_families();

// Throws Error{kBadInput} that lists the supported families when model_type is unknown.
const ModelFamily& family_for(const nlohmann::json& config);
// notes (may be null) gets what the user should know of the fields that are not read.
ModelConfig model_config(const nlohmann::json& config, std::vector<std::string>* notes = nullptr);

extern const ModelFamily kLlamaFamily;
extern const ModelFamily kMistralFamily;
extern const ModelFamily kQwen2Family;
extern const ModelFamily kQwen3Family;
extern const ModelFamily kGemmaFamily;
extern const ModelFamily kGemma2Family;
extern const ModelFamily kGemma3Family;
extern const ModelFamily kGptNeoxFamily;
extern const ModelFamily kPhi3Family;
extern const ModelFamily kOptFamily;
extern const ModelFamily kSmolLm3Family;
extern const ModelFamily kOlmoFamily;
extern const ModelFamily kOlmo2Family;
extern const ModelFamily kOlmo3Family;
extern const ModelFamily kGraniteFamily;
extern const ModelFamily kGraniteMoeFamily;
extern const ModelFamily kGraniteHybridFamily;
extern const ModelFamily kMinistralFamily;
extern const ModelFamily kMinistral3Family;
extern const ModelFamily kExaone4Family;
extern const ModelFamily kGlmFamily;
extern const ModelFamily kGlm4Family;
extern const ModelFamily kStarcoder2Family;
extern const ModelFamily kStableLmFamily;
extern const ModelFamily kPhiFamily;
extern const ModelFamily kGptJFamily;
extern const ModelFamily kCohereFamily;
extern const ModelFamily kCohere2Family;
extern const ModelFamily kApertusFamily;
extern const ModelFamily kNemotronHFamily;
extern const ModelFamily kArceeFamily;
extern const ModelFamily kNemotronFamily;
extern const ModelFamily kGpt2Family;
extern const ModelFamily kBloomFamily;
extern const ModelFamily kMptFamily;
extern const ModelFamily kLfm2Family;
extern const ModelFamily kLfm2MoeFamily;
extern const ModelFamily kFalconH1Family;
extern const ModelFamily kGemma4Family;
extern const ModelFamily kQwen35Family;
extern const ModelFamily kQwen35MoeFamily;
extern const ModelFamily kQwen3NextFamily;
extern const ModelFamily kQwen2MoeFamily;
extern const ModelFamily kQwen3MoeFamily;
extern const ModelFamily kMixtralFamily;
extern const ModelFamily kOlmoeFamily;
extern const ModelFamily kGlm4MoeFamily;
extern const ModelFamily kGptOssFamily;
extern const ModelFamily kDeepseekV2Family;
extern const ModelFamily kDeepseekV3Family;

}  // namespace swiftprune
