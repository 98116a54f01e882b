// Compiled without contraction of a * b + c, so that results do not depend on the processor having FMA.
#include "swiftprune/export/gguf_quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "swiftprune/core/error.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

// f16 scale d = max |x| / 127, then 32 signed bytes round(x / d).
void q8_0_block(const float* values, std::byte* block) {
  constexpr int kSize = 32;
  float largest = 0.0f;
  for (int i = 0; i < kSize; ++i) largest = std::max(largest, std::abs(values[i]));
  const float d = largest / 127.0f;
  const float inverse = d == 0.0f ? 0.0f : 1.0f / d;
  const std::uint16_t scale = f32_to_f16(d);
  std::memcpy(block, &scale, sizeof scale);
  for (int i = 0; i < kSize; ++i) {
    block[2 + i] = static_cast<std::byte>(static_cast<std::int8_t>(std::round(values[i] * inverse)));
  }
}

}  // namespace

const GgmlTypeTraits* writable_ggml_type(std::string_view name) {
  if (name == "f32") return find_ggml_type(static_cast<std::uint32_t>(GgmlType::kF32));
  if (name == "f16") return find_ggml_type(static_cast<std::uint32_t>(GgmlType::kF16));
  if (name == "bf16") return find_ggml_type(static_cast<std::uint32_t>(GgmlType::kBF16));
  if (name == "q8_0") return find_ggml_type(static_cast<std::uint32_t>(GgmlType::kQ8_0));
  return nullptr;
}

void quantize(const GgmlTypeTraits& type, std::span<const float> values, std::span<std::byte> blocks) {
  const auto n = static_cast<std::int64_t>(values.size());
  expect(n % type.block_size == 0 &&
             static_cast<std::int64_t>(blocks.size()) == n / type.block_size * type.block_bytes,
         "quantize: whole blocks");
  switch (type.type) {
    case GgmlType::kF32:
      return convert_from_f32(values, DType::kF32, blocks);
    case GgmlType::kF16:
      return convert_from_f32(values, DType::kF16, blocks);
    case GgmlType::kBF16:
      return convert_from_f32(values, DType::kBF16, blocks);
    case GgmlType::kQ8_0:
      for (std::int64_t b = 0; b < n / type.block_size; ++b) {
        q8_0_block(values.data() + b * type.block_size, blocks.data() + b * type.block_bytes);
      }
      return;
    default:
      expect(false, "quantize: a type that is written");
  }
}

}  // namespace swiftprune
