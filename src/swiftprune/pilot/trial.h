// What trials of models share: a folder that goes, the speed of decoding, what packing leaves.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>

#include "swiftprune/report/comparison.h"

namespace swiftprune {

// Tokens a second of generation, after a short prompt of the text.
double decode_speed(const Model& model, Device& device, std::span<const std::int32_t> text,
                    ComputeType compute);

// Packs a model's linears into the folder, which goes again: packed_bytes, bits a weight and speed of the trial are
// those of the packed model, where its dtype can be packed.
void measure_packed(const Model& model, const std::filesystem::path& folder,
                    const std::function<double(const Model&)>& speed, ModelReport& trial);

}  // namespace swiftprune
