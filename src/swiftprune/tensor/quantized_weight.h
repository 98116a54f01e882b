// A linear's weight [O, I] on a grid of few bits: what the solver found, what is stored, and what products use.
//   value[o][i] = (code[o][i] - zero[o][g]) · scale[o][g],  g = i / group
// Zeros of pruning are codes that equal their group's zero point, so that they are exact and need no mask of
// their own: a weight is pruned when its value is 0.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

struct QuantGrid {
  int bits = 4;             // 8, 4 or 3
  std::int64_t group = 64;  // inputs that share a scale: 32, 64 or 128; 0: the whole row
  bool asymmetric = false;  // a zero point a group; otherwise it is the middle code, 2^(bits-1)

  int num_codes() const { return 1 << bits; }
  int middle() const { return 1 << (bits - 1); }
  std::int64_t groups_of(std::int64_t cols) const { return group == 0 ? 1 : cols / group; }
  bool operator==(const QuantGrid&) const = default;
};

inline constexpr int kQuantBits[] = {8, 4, 3};
inline constexpr std::int64_t kQuantGroups[] = {32, 64, 128};

// "int4" (groups of 64), "int3(32)", "int8(row)", "int4(32,asymmetric)". Throws Error{kUsage} naming `where`.
QuantGrid parse_grid(std::string_view text, std::string_view where);
std::string format(const QuantGrid& grid);  // "int4(64)": what parse_grid() reads back
// Bits a weight with its share of scale and zero point, without any storage of zeros. cols: inputs a row
double bits_per_weight(const QuantGrid& grid, std::int64_t cols);

// Throws Error{kUsage} for bits or a group that is not among these, and Error{kBadInput} naming the tensor,
// with the groups that fit, for a group that does not divide its width.
void check_grid(const QuantGrid& grid, std::int64_t cols, const std::string& tensor);

struct QuantizedWeight {
  QuantGrid grid;
  std::int64_t rows = 0;              // O
  std::int64_t cols = 0;              // I
  std::vector<std::uint8_t> codes;    // [O, I], each < 2^bits
  std::vector<std::uint16_t> scales;  // [O, groups], f16 bits, finite and > 0
  std::vector<std::uint8_t> zeros;    // [O, groups] when asymmetric, each < 2^bits; else empty

  int zero_of(std::int64_t row, std::int64_t group) const {
    return grid.asymmetric ? zeros[static_cast<std::size_t>(row * grid.groups_of(cols) + group)]
                           : grid.middle();
  }
};

// The exact values, [O, I]: a product of a small integer and an f16 has no rounding in float.
Matrix dequantize(const QuantizedWeight& weight);
// Weights whose code is not their zero point.
std::int64_t num_nonzero(const QuantizedWeight& weight);

}  // namespace swiftprune
