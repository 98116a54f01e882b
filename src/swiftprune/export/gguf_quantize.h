// Floats as the tensor types of GGUF files that swiftprune writes: F32, F16, BF16 and Q8_0. Results are those
// of the PyPI package `gguf`, bit for bit (but for -0, which becomes +0 in 16 bits).
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "swiftprune/checkpoint/gguf_dequantize.h"

namespace swiftprune {

// "f16" and so on; null for a type that is not written.
const GgmlTypeTraits* writable_ggml_type(std::string_view name);

// values: a whole number of blocks; blocks: their bytes. Zeros stay zeros.
void quantize(const GgmlTypeTraits& type, std::span<const float> values, std::span<std::byte> blocks);

}  // namespace swiftprune
