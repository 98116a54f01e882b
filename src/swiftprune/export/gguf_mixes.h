// What `export --type` names: one type for all matrices, or a mix of types as llama.cpp's llama-quantize makes
// it under the same name. The rules are llama.cpp's (docs/formats.md has them as a table).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/checkpoint/gguf_dequantize.h"

namespace swiftprune {

struct GgufMix {
  enum class Raise { kNone, kQ2K, kQ3KM, kQ3KL, kQ4KS, kQ4KM, kQ5KM };
  std::string_view name;       // "q4_k_m"
  GgmlType base;               // of most matrices
  std::int64_t file_type;      // general.file_type, llama.cpp's number
  Raise raise = Raise::kNone;  // which matrices get more bits
};

// Null for a name that is not one of gguf_mix_names().
const GgufMix* find_gguf_mix(std::string_view name);
std::vector<std::string> gguf_mix_names();

// A matrix's place in the model.
struct MatrixPlace {
  std::string_view gguf;  // the file's name without "blk.N." and ".weight": "attn_v"
  std::int64_t block = -1, num_blocks = 0;
  std::int64_t columns = 0;
  std::int64_t queries_per_key = 1;  // heads
  std::int64_t num_experts = 0;      // of a block
  bool tied = false;                 // the embedding is the output projection too
};

struct MatrixType {
  GgmlType wanted;  // by the mix
  GgmlType type;    // what rows of that width can have
};
MatrixType matrix_type(const GgufMix& mix, const MatrixPlace& place);

}  // namespace swiftprune
