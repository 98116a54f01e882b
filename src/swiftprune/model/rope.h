// Rotary embedding: the frequencies of every Hugging Face rope type, and tables of cos and sin.
// Types: default, linear, dynamic (its fixed-length form), llama3, yarn (arXiv 2309.00071), longrope (arXiv
// 2402.13753), proportional (Gemma 4). Frequencies and angles are rounded to float where transformers rounds them.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "swiftprune/model/config_reader.h"
#include "swiftprune/model/model_config.h"

namespace swiftprune {

// What a family knows about its rotary embedding beside the rope parameters themselves.
struct RopeOptions {
  std::int64_t rotary_size = 0;  // rotated elements a head; an odd size is rounded up
  std::int64_t max_positions = 0;
  double theta = 10000.0;  // used when the file holds no rope_theta
  // Positions of the pretraining, for the types that stretch it; nothing: as the parameters say, else
  // max_positions.
  std::optional<std::int64_t> original_positions = std::nullopt;
  bool partial = false;        // the family may rotate a part of each head (read_rotary_size)
  std::string_view also = "";  // parameters that the family reads itself, separated by spaces
};

// The parameters of `config`: rope_theta and the object rope_scaling (transformers before v5) or
// rope_parameters (v5). Throws Error{kBadInput} for an unknown type or a missing field.
RopeConfig read_rope(const ConfigReader& config, const RopeOptions& options);
// From one such object, for models with several.
RopeConfig rope_from_parameters(const ConfigReader& parameters, const RopeOptions& options);
// For models with one rotary embedding for the layers with a sliding window and one for the others, as indices into
// ModelConfig::ropes. transformers before v5: rope_scaling for the others; v5: rope_parameters holds an object for each
// kind of layer. The options' theta is that of a kind whose object has none.
constexpr int kSlidingRope = 0, kFullRope = 1;
std::vector<RopeConfig> read_ropes_by_layer(const ConfigReader& config, const RopeOptions& sliding,
                                            const RopeOptions& full);
// The frequencies theta^(−2i / rotary_size).
RopeConfig plain_rope(const RopeOptions& options);

// Rotated elements of a head of which a fraction is rotated: partial_rotary_factor of the rope parameters,
// else the field `key` of `config`, else `fallback`.
std::int64_t read_rotary_size(const ConfigReader& config, std::int64_t head_size, std::string_view key,
                              double fallback);

RopeTable make_rope_table(const RopeConfig& rope, std::int64_t num_positions);

}  // namespace swiftprune
