// The tensor types of GGUF files and their values as float. Layouts: ggml's block formats; results are those
// of the PyPI package `gguf`, bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace swiftprune {

// The numbers are those of the file format.
enum class GgmlType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
};

struct GgmlTypeTraits {
  GgmlType type;
  std::string_view name;
  std::int64_t block_size;   // elements
  std::int64_t block_bytes;  // of one block
  void (*dequantize)(const std::byte* blocks, std::int64_t num_blocks, float* values);
};

// Null when swiftprune cannot read the type.
const GgmlTypeTraits* find_ggml_type(std::uint32_t type);
// Any type's name, also of those that cannot be read: "Q8_K", "type 77".
std::string ggml_type_name(std::uint32_t type);
// "F32, F16, Q4_0, ...": those that can be read.
std::string readable_ggml_types();

// values: a whole number of blocks; blocks: their bytes, any alignment.
void dequantize(const GgmlTypeTraits& type, std::span<const std::byte> blocks, std::span<float> values);

}  // namespace swiftprune
