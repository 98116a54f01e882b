// The hyper-parameters of experts, their router and latent attention as llama.cpp's converter writes them, and what of
// them its architectures cannot hold (gguf_metadata.h).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/export/gguf_writer.h"
#include "swiftprune/model/config_reader.h"
#include "swiftprune/model/model_config.h"

namespace swiftprune {

// Appends "<architecture>.expert_*" and the like. Throws Error{kBadInput} naming the field of config.json that
// llama.cpp cannot hold; notes gets what it will not do as transformers does.
void add_gguf_experts(const ModelConfig& model, const ConfigReader& config, std::string_view architecture,
                      GgufMetadata& metadata, std::vector<std::string>& notes);

// attention.*: of the one compressed head, and of the heads that it becomes ("_mla").
void add_gguf_latent_attention(const ModelConfig& model, const ConfigReader& config,
                               std::string_view architecture, GgufMetadata& metadata);

}  // namespace swiftprune
