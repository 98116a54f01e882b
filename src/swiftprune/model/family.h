// The list of model families. A family is one file and one line in all_families(): it turns config.json into
// a ModelConfig. How to add one: docs/architecture.md.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "swiftprune/model/model_config.h"

namespace swiftprune {

struct ModelFamily {
  std::string_view name;  // "llama"
  // The values of config.json's "model_type" that it serves.
  std::span<const std::string_view> model_types;
  ModelConfig (*configure)(const nlohmann::json& config);
};

std::span<const ModelFamily> all_families();

// Throws Error{kBadInput} that lists the supported families when model_type is unknown.
const ModelFamily& family_for(const nlohmann::json& config);
ModelConfig model_config(const nlohmann::json& config);

extern const ModelFamily kLlamaFamily;
extern const ModelFamily kMistralFamily;
extern const ModelFamily kQwen2Family;
extern const ModelFamily kQwen3Family;
extern const ModelFamily kGemma2Family;
extern const ModelFamily kGemma3Family;
extern const ModelFamily kGptNeoxFamily;
extern const ModelFamily kPhi3Family;
extern const ModelFamily kOptFamily;

}  // namespace swiftprune
