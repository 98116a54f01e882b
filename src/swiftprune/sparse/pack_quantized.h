// A weight on a grid of few bits, as the solver found it (tensor/quantized_weight.h), to a packed tensor and
// back: codes, scales and zero points are stored as they are, so that nothing is rounded a second time.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "swiftprune/sparse/pack.h"
#include "swiftprune/tensor/quantized_weight.h"

namespace swiftprune {

// Every format that can hold the weight, smallest first: dense_grid, bitmap_grid, and nm_grid with the
// smallest N of 4 that holds it. (N of 8 and 16 take the same bits as a bitmap, and have no format of their
// own.)
std::vector<FormatSize> formats_for(const QuantizedWeight& weight);

// Bytes that a weight of this shape takes with so many nonzeros, wherever they are: of the smaller of dense_grid and
// bitmap_grid. Panels whose codes end within a byte may add a few.
double grid_bytes(const QuantGrid& grid, std::int64_t rows, std::int64_t cols, std::int64_t num_nonzero);

// Of dense_grid, the largest that formats_for() returns first.
std::int64_t dense_grid_bytes(const QuantGrid& grid, std::int64_t rows, std::int64_t cols);

// Throws Error{kBadInput} for a code or zero point that needs more bits, a scale that is not finite and above
// zero, and a format that cannot hold the weight (more than N of 4); as check_grid for the grid.
PackedTensor pack(const QuantizedWeight& weight, const PackFormat& format);
// In the first of formats_for().
PackedTensor pack_smallest(const QuantizedWeight& weight);

// A table [vocabulary, hidden] rounded to the nearest codes, for embeddings and output projections: int8 with a
// scale a row; int4 with a scale and a zero point for groups of 32 inputs (64, 128 or the row, where 32 does
// not divide). Throws Error{kBadInput} naming the table for a value that is not finite or too large for a
// scale in f16.
QuantizedWeight quantize_table(ConstMatrixView table, int bits, const std::string& name);
// What quantize_table stores, packed, in bytes.
PackedShape packed_table_shape(std::int64_t rows, std::int64_t cols, int bits);

// What was packed; codes of pruned weights are their group's zero point.
QuantizedWeight unpack_quantized(const PackedTensor& packed);
// Weights that are not zero, of all; stored ones may be.
double nonzero_share(const PackedTensor& packed);
// One row's values, of a grid kind: a look-up in a table.
void unpack_row(const PackedTensor& packed, std::int64_t row, std::span<float> values);

}  // namespace swiftprune
