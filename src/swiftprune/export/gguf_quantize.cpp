// Compiled without contraction of a * b + c, so that results do not depend on the processor having FMA.
#include "swiftprune/export/gguf_quantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "swiftprune/core/error.h"
#include "swiftprune/export/gguf_grid.h"
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

// Large values do more to the output than their share of the sum of squares says, for want of statistics.
void importance_of(const float* values, int count, float* weights) {
  float squares = 0.0f;
  for (int i = 0; i < count; ++i) squares += values[i] * values[i];
  const float mean = squares / static_cast<float>(count);
  for (int i = 0; i < count; ++i) weights[i] = std::sqrt(mean + values[i] * values[i]);
}

void grid_blocks(const GgmlGrid& grid, const GgmlTypeTraits& type, std::span<const float> values,
                 std::span<std::byte> blocks, const QuantizeOptions& options) {
  const auto size = static_cast<std::size_t>(grid.block);
  const std::size_t width = options.columns.size();
  expect(width % size == 0 && (width == 0 || values.size() % width == 0),
         "quantize: a weight for each column");
  std::array<float, kLargestBlock> own;
  std::array<std::int8_t, kLargestBlock> codes;
  for (std::size_t at = 0, b = 0; at < values.size(); at += size, ++b) {
    const float* x = values.data() + at;
    if (width == 0) importance_of(x, grid.block, own.data());
    const float* weights = width == 0 ? own.data() : options.columns.data() + at % width;
    const BlockScales scales = fit_block(grid, x, weights, options.keep_zeros);
    round_block(grid, scales, x, codes.data());
    pack_block(grid, scales, codes.data(), blocks.data() + b * static_cast<std::size_t>(type.block_bytes));
  }
}

}  // namespace

const GgmlTypeTraits* writable_ggml_type(GgmlType type) {
  const bool is_float = type == GgmlType::kF32 || type == GgmlType::kF16 || type == GgmlType::kBF16;
  return is_float || find_grid(type) != nullptr ? find_ggml_type(static_cast<std::uint32_t>(type)) : nullptr;
}

void quantize(const GgmlTypeTraits& type, std::span<const float> values, std::span<std::byte> blocks,
              const QuantizeOptions& options) {
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
      break;
  }
  const GgmlGrid* grid = find_grid(type.type);
  expect(grid != nullptr, "quantize: a type that is written");
  grid_blocks(*grid, type, values, blocks, options);
}

}  // namespace swiftprune
