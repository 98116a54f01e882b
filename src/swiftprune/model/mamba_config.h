// The fields of config.json that families with Mamba-2 share ("mamba_n_heads", ...).
#pragma once

#include <string>

#include "swiftprune/model/config_reader.h"
#include "swiftprune/model/model_config.h"

namespace swiftprune {

inline constexpr std::string_view kExpanded = "mamba_expand times hidden_size";
// The mixer's tensors stand under `prefix` ("model.layers.3.mamba."). size: heads times their size, which is `what`.
ParallelMixer read_mamba2(const ConfigReader& config, const ModelConfig& model, const std::string& prefix,
                          std::int64_t size, std::string_view what);

}  // namespace swiftprune
