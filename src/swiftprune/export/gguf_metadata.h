// The hyper-parameters of a model as llama.cpp's converter writes them, and whether llama.cpp can hold them:
// its architectures fix what config.json leaves open (activation, which layers slide, what queries are scaled
// by), and a model that differs is refused by name instead of coming out as another one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/checkpoint/gguf_architectures.h"
#include "swiftprune/export/gguf_writer.h"
#include "swiftprune/model/config_reader.h"
#include "swiftprune/model/model.h"

namespace swiftprune {

// Tables of the rotary embedding that GGUF keeps as tensors.
struct GgufTable {
  std::string name;
  std::vector<float> values;
};

struct GgufHyperParameters {
  std::vector<GgufTable> tables;
  std::vector<std::string> notes;  // what llama.cpp will not do as transformers does
};

// Throws Error{kBadInput} naming the family when llama.cpp has no architecture for it, or none for layers of
// different sizes (layer_sizes.h).
const GgufArchitecture& gguf_architecture_for(const ModelConfig& model);
// What it is called, and what it is where the family's models have several; nothing for one that llama.cpp cannot hold.
std::vector<std::string_view> gguf_architecture_names(std::string_view family);
// config.json, or the part of it that describes the text model.
const nlohmann::json& text_config(const Checkpoint& checkpoint);

// "field 'x': found F, which llama.cpp's A cannot hold: R".
[[noreturn]] void refuse_gguf_field(const ConfigReader& config, std::string_view field,
                                    std::string_view found, std::string_view architecture,
                                    std::string_view reason);

// Appends "<architecture>.*". Throws Error{kBadInput} naming the field that llama.cpp cannot hold.
GgufHyperParameters add_gguf_hyper_parameters(const Model& model, const GgufArchitecture& architecture,
                                              GgufMetadata& metadata);

}  // namespace swiftprune
