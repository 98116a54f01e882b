// Where the codes of grid kinds lie: the one description that packing, reading, checking and the plain kernels
// share. Byte by byte: docs/formats.md, "Grids".
#pragma once

#include <cstdint>
#include <span>

#include "swiftprune/sparse/kernels.h"
#include "swiftprune/sparse/packed_tensor.h"

namespace swiftprune {

// A packed tensor as the kernels see it.
sparse_kernels::Weights kernel_view(const PackedTensor& packed);

// The place of one code: `shift` into a byte of the plane, and for codes of 3 bits its third bit.
struct CodePlace {
  std::int64_t byte = 0;
  int shift = 0;
  std::int64_t high_byte = 0;
  int high_bit = 0;
};

// The stored codes of one panel; places count in bytes from the start of the section `values`.
class GridCodes {
 public:
  // dense and N:M: `stored` codes of every row and step (4 or N), all panels alike.
  static GridCodes fixed(int bits, int stored, std::int64_t first);
  // bitmap: streams that advance by what each step stores.
  static GridCodes streams(int bits, std::int64_t first, std::int64_t high_first);
  static GridCodes of(const sparse_kernels::Weights& weights, std::int64_t panel);

  sparse_kernels::GridCursor cursor;  // bitmap: codes before the next step

  CodePlace place(std::int64_t step, std::int64_t i) const;
  // After a step that stores `count` codes.
  void advance(std::int64_t step, std::int64_t count);

  // All codes of a step in their order; put() to bytes that are zero there.
  void put(std::uint8_t* values, std::int64_t step, std::span<const std::uint8_t> codes) const;
  void get(const std::uint8_t* values, std::int64_t step, std::span<std::uint8_t> codes) const;
  std::uint8_t get(const std::uint8_t* values, std::int64_t step, std::int64_t i) const;

  int num_streams() const { return 8 / plane_bits(); }

 private:
  int plane_bits() const { return bits_ == 3 ? 2 : bits_; }
  int bits_ = 4;
  int stored_ = 0;
  std::int64_t first_ = 0;
  std::int64_t high_first_ = 0;
};

// Zero point of a row of the panel in a group of the stored scales.
int zero_point(const sparse_kernels::Weights& weights, std::int64_t panel, std::int64_t group, int row);

// How many lanes of each row's four are set, 0 to 4 in the four bits of each row.
constexpr std::uint64_t kept_of_fours(std::uint64_t lanes) {
  constexpr std::uint64_t kOnes = 0x1111'1111'1111'1111u;
  return (lanes & kOnes) + (lanes >> 1 & kOnes) + (lanes >> 2 & kOnes) + (lanes >> 3 & kOnes);
}
// Has a row's four more than n of them set? n: 0 to 3
constexpr bool keeps_more(std::uint64_t lanes, int n) {
  constexpr std::uint64_t kOnes = 0x1111'1111'1111'1111u;
  return ((kept_of_fours(lanes) + kOnes * static_cast<std::uint64_t>(3 - n)) & 4 * kOnes) != 0;
}

// The codes of a step's 64 lanes (4·row + column); what is not stored is its zero point. Steps in order.
void read_step(const sparse_kernels::Weights& weights, std::int64_t panel, std::int64_t step,
               GridCodes& codes, std::uint8_t lanes[64]);

}  // namespace swiftprune
