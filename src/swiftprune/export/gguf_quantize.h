// Floats as the tensor types of GGUF files that swiftprune writes. F32, F16, BF16 and Q8_0 are those of the
// PyPI package `gguf`, bit for bit (but for -0, which becomes +0 in 16 bits); the other quantised types have
// searched scales (gguf_grid.h).
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "swiftprune/checkpoint/gguf_dequantize.h"

namespace swiftprune {

// Null for a type that is not written.
const GgmlTypeTraits* writable_ggml_type(GgmlType type);

struct QuantizeOptions {
  // What an error in each column of a row counts, >= 0; empty: an error counts more in a large value. Q8_0 does
  // without.
  std::span<const float> columns{};
  bool keep_zeros = false;  // zeros stay zeros in types with an offset too; in the others they always do
};

// values: whole rows of whole blocks; blocks: their bytes.
void quantize(const GgmlTypeTraits& type, std::span<const float> values, std::span<std::byte> blocks,
              const QuantizeOptions& options = {});

}  // namespace swiftprune
