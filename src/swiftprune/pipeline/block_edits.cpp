#include "swiftprune/pipeline/block_edits.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/structure/refit.h"

namespace swiftprune {

using enum LinearInput;

void round_to(DType dtype, std::span<float> values) {
  if (dtype == DType::kF32) return;
  constexpr std::int64_t kChunk = std::int64_t{1} << 16;  // values
  parallel_for(std::ssize(values), kChunk, [&](std::int64_t first, std::int64_t last) {
    const auto part = values.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
    std::vector<std::byte> bytes(part.size() * static_cast<std::size_t>(size_of(dtype)));
    convert_from_f32(part, dtype, bytes);
    convert_to_f32(bytes, dtype, part);
  });
}

const BlockLinear& output_projection(const DecoderBlock& block, LinearInput output) {
  const auto found = std::find_if(block.linears().begin(), block.linears().end(),
                                  [&](const BlockLinear& l) { return l.tensors.input == output; });
  expect(is_output(output) && found != block.linears().end(), "output_projection: an output's input");
  return *found;
}

BlockLinear& output_projection(DecoderBlock& block, LinearInput output) {
  return const_cast<BlockLinear&>(output_projection(std::as_const(block), output));
}

void silence(DecoderBlock& block) {
  for (BlockLinear& linear : block.linears()) {
    if (!is_output(linear.tensors.input)) continue;
    std::fill(linear.weight.values().begin(), linear.weight.values().end(), 0.0f);
    std::fill(linear.bias.begin(), linear.bias.end(), 0.0f);
  }
}

// Columns back at their places, zeros elsewhere.
void spread_columns(ConstMatrixView narrow, std::span<const std::int64_t> columns, MatrixView wide) {
  for (std::int64_t r = 0; r < wide.rows; ++r) {
    std::fill_n(wide.row(r), wide.cols, 0.0f);
    for (std::int64_t k = 0; k < std::ssize(columns); ++k) {
      wide.at(r, columns[static_cast<std::size_t>(k)]) = narrow.at(r, k);
    }
  }
}

void keep_columns(BlockLinear& linear, std::span<const std::int64_t> kept) {
  const Matrix narrow = take_columns(std::as_const(linear.weight).view(), kept);
  spread_columns(narrow.view(), kept, linear.weight.view());
}

}  // namespace swiftprune
