// Changes to a loaded block in main memory.
#pragma once

#include <cstdint>
#include <span>

#include "swiftprune/model/decoder_block.h"

namespace swiftprune {

// Rounds to the checkpoint's dtype and back, so that later blocks see what the file will hold.
void round_to(DType dtype, std::span<float> values);

// The block's output projection that reads `output`'s units.
BlockLinear& output_projection(DecoderBlock& block, LinearInput output);
const BlockLinear& output_projection(const DecoderBlock& block, LinearInput output);
// Makes the block pass its input on: nothing is added to the residual.
void silence(DecoderBlock& block);
// Columns back at their places, zeros elsewhere. narrow [O, |columns|] -> wide [O, I]
void spread_columns(ConstMatrixView narrow, std::span<const std::int64_t> columns, MatrixView wide);
// Zeroes all columns but the kept ones.
void keep_columns(BlockLinear& linear, std::span<const std::int64_t> kept);

}  // namespace swiftprune
