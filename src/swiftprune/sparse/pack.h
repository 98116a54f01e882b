// From a row-major 16-bit weight and its zeros to a packed tensor and back. In 16 bits the way back gives
// the same bits: a weight counts as zero only when all its bits are (-0 is kept), and what is kept is copied.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/sparse/packed_tensor.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

// A weight [O, I] as in the checkpoint, row-major, BF16 or F16.
struct WeightBits {
  std::span<const std::uint16_t> bits;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  DType dtype = DType::kBF16;
};

struct PackFormat {
  PackedKind kind = PackedKind::kDense16;
  int group_n = 0;  // nm kinds only
  int group_m = 0;
  bool operator==(const PackFormat&) const = default;
};

enum class Quantize { kNone, kInt8, kFp8 };
std::string_view name_of(Quantize quantize);  // "int8"

struct FormatSize {
  PackFormat format;
  std::int64_t num_bytes = 0;
};
// Every format that can hold the weight, smallest first; of equal sizes the one that is faster to run.
std::vector<FormatSize> formats_for(const WeightBits& weight, Quantize quantize);

// Throws Error{kBadInput} when the format cannot hold the weight (a group with more than N weights; NaN or
// infinity in 8 bits). int8: value = round(w / scale), scale = max |w| of the row / 127; fp8: the nearest
// E4M3 number to w / scale, scale = max |w| of the row / 448.
PackedTensor pack(const WeightBits& weight, const PackFormat& format);

// Row-major bits [O, I], of all kinds but grids, which have no 16-bit form (pack_quantized.h); 8-bit values come back as round(value · scale) in the original dtype.
std::vector<std::uint16_t> unpack(const PackedTensor& packed);
// The weights [O, I] that products use.
Matrix unpack_f32(const PackedTensor& packed);

}  // namespace swiftprune
