// The rotary embedding as llama.cpp's converter writes it: base, scaling and tables, and what of them its architectures
// cannot hold (gguf_metadata.h).
#pragma once

#include <string_view>

#include "swiftprune/export/gguf_metadata.h"

namespace swiftprune {

// Appends "<architecture>.rope.*"; result gets tables and notes. config: of the text model; default_theta: what an absent
// rope_theta means to the family. Throws Error{kBadInput} naming the field of config.json that llama.cpp cannot hold.
void add_gguf_ropes(const ModelConfig& model, const nlohmann::json& config, std::string_view architecture,
                    double default_theta, GgufMetadata& metadata, GgufHyperParameters& result);

}  // namespace swiftprune
