// A weight on a grid of few bits, as the solver found it (tensor/quantized_weight.h), to a packed tensor and
// back: codes, scales and zero points are stored as they are, so that nothing is rounded a second time.
#pragma once

#include <vector>

#include "swiftprune/sparse/pack.h"
#include "swiftprune/tensor/quantized_weight.h"

namespace swiftprune {

// Every format that can hold the weight, smallest first: dense_grid, bitmap_grid, and nm_grid with the
// smallest N of 4 that holds it. (N of 8 and 16 take the same bits as a bitmap, and have no format of their
// own.)
std::vector<FormatSize> formats_for(const QuantizedWeight& weight);

// Throws Error{kBadInput} for a code or zero point that needs more bits, a scale that is not finite and above
// zero, and a format that cannot hold the weight (more than N of 4); as check_grid for the grid.
PackedTensor pack(const QuantizedWeight& weight, const PackFormat& format);

// What was packed; codes of pruned weights are their group's zero point.
QuantizedWeight unpack_quantized(const PackedTensor& packed);

}  // namespace swiftprune
