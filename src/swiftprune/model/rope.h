// Rotary embedding: the frequencies of every Hugging Face rope type, and tables of cos and sin.
// Types: default, linear, dynamic (its fixed-length form), llama3, yarn (arXiv 2309.00071), longrope (arXiv
// 2402.13753).
#pragma once

#include "swiftprune/model/config_reader.h"
#include "swiftprune/model/model_config.h"

namespace swiftprune {

// Reads rope_theta with rope_scaling (transformers before v5) or rope_parameters (v5) of `config`.
// rotary_size: rotated elements a head. Throws Error{kBadInput} for an unknown type or a missing field.
RopeConfig read_rope(const ConfigReader& config, std::int64_t rotary_size, std::int64_t max_positions);
// The frequencies theta^(−2i / rotary_size).
RopeConfig plain_rope(double theta, std::int64_t rotary_size);
// One of rope_parameters / rope_scaling objects, `theta` used when it holds none.
RopeConfig rope_from_parameters(const ConfigReader& parameters, double theta, std::int64_t rotary_size,
                                std::int64_t max_positions, const ConfigReader& config);

RopeTable make_rope_table(const RopeConfig& rope, std::int64_t num_positions);

}  // namespace swiftprune
