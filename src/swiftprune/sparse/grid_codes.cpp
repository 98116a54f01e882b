#include "swiftprune/sparse/grid_codes.h"

#include <bit>
#include <cstring>

namespace swiftprune {
namespace {

using sparse_kernels::Weights;

constexpr std::int64_t kRowGroupChunks = 4;  // of sums in whole-row groups: keeps 32-bit sums exact

}  // namespace

Weights kernel_view(const PackedTensor& w) {
  const PackedShape& shape = w.shape();
  const bool grid = is_grid(shape.kind);
  return {.values = w.values(),
          .masks = w.masks(),
          .indices = w.indices(),
          .offsets = w.offsets(),
          .columns = w.columns(),
          .steps = grid                  ? shape.num_chunks() * kChunkSteps
                   : is_8bit(shape.kind) ? shape.num_quads()
                                         : shape.num_pairs(),
          .slots = shape.num_slots(),
          .used_slots = shape.group_m == 0 ? 0 : shape.cols / shape.group_m * shape.group_n,
          .group_n = shape.group_n,
          .group_m = shape.group_m,
          .scales = grid ? w.group_scales() : nullptr,
          .zeros = w.zeros(),
          .bits = shape.grid.bits,
          .middle = shape.grid.middle(),
          .chunks = shape.num_chunks(),
          .group_chunks = shape.grid.group == 0 ? kRowGroupChunks : shape.grid.group / kChunkCols,
          .groups = grid ? shape.num_groups() : 0,
          .row_groups = shape.grid.group == 0};
}

GridCodes GridCodes::fixed(int bits, int stored, std::int64_t first) {
  GridCodes codes;
  codes.bits_ = bits;
  codes.stored_ = stored;
  codes.first_ = first;
  return codes;
}

GridCodes GridCodes::streams(int bits, std::int64_t first, std::int64_t high_first) {
  GridCodes codes;
  codes.bits_ = bits;
  codes.first_ = first;
  codes.high_first_ = high_first;
  return codes;
}

GridCodes GridCodes::of(const Weights& w, std::int64_t panel) {
  if (w.offsets == nullptr) {
    const int stored = w.group_n == 0 ? kNmGridColumns : w.group_n;
    return fixed(w.bits, stored, panel * w.chunks * kPanelRows * stored * w.bits);
  }
  const std::uint64_t* at = w.offsets + panel * (w.bits == 3 ? 2 : 1);
  return streams(w.bits, static_cast<std::int64_t>(at[0]),
                 w.bits == 3 ? static_cast<std::int64_t>(at[1]) : 0);
}

CodePlace GridCodes::place(std::int64_t step, std::int64_t i) const {
  const std::int64_t stream = step % num_streams();
  const int shift = plane_bits() * static_cast<int>(stream);
  if (stored_ == 0) {
    const std::int64_t bit = cursor.total + i;
    return {first_ + cursor.at[stream] + i, shift, high_first_ + bit / 8, static_cast<int>(bit % 8)};
  }
  const std::int64_t codes = kPanelRows * stored_;  // of a step
  const std::int64_t base = first_ + step / kChunkSteps * codes * bits_;
  const std::int64_t within = step % kChunkSteps;
  return {base + within / num_streams() * codes + i, shift, base + 2 * codes + within * codes / 8 + i / 8,
          static_cast<int>(i % 8)};
}

void GridCodes::advance(std::int64_t step, std::int64_t count) {
  cursor.at[step % num_streams()] += count;
  cursor.total += count;
}

void GridCodes::put(std::uint8_t* values, std::int64_t step, std::span<const std::uint8_t> codes) const {
  const CodePlace first = place(step, 0);
  const int mask = (1 << plane_bits()) - 1;
  std::uint8_t* const to = values + first.byte;
  for (std::size_t i = 0; i < codes.size(); ++i)
    to[i] = static_cast<std::uint8_t>(to[i] | (codes[i] & mask) << first.shift);
  if (bits_ != 3) return;
  std::uint64_t high = 0;
  for (std::size_t i = 0; i < codes.size(); ++i) high |= static_cast<std::uint64_t>(codes[i] >> 2) << i;
  const auto end = first.high_bit + static_cast<int>(codes.size());
  const std::uint64_t beyond = first.high_bit == 0 ? 0 : high >> (64 - first.high_bit);
  high <<= first.high_bit;
  for (int bit = 0; bit < end; bit += 8) {
    std::uint8_t& byte = values[first.high_byte + bit / 8];
    byte = static_cast<std::uint8_t>(byte | (bit < 64 ? high >> bit : beyond));
  }
}

void GridCodes::get(const std::uint8_t* values, std::int64_t step, std::span<std::uint8_t> codes) const {
  const CodePlace first = place(step, 0);
  const int mask = (1 << plane_bits()) - 1;
  const std::uint8_t* const from = values + first.byte;
  for (std::size_t i = 0; i < codes.size(); ++i)
    codes[i] = static_cast<std::uint8_t>(from[i] >> first.shift & mask);
  if (bits_ != 3) return;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const std::size_t bit = static_cast<std::size_t>(first.high_bit) + i;
    const int high = values[static_cast<std::size_t>(first.high_byte) + bit / 8] >> bit % 8 & 1;
    codes[i] = static_cast<std::uint8_t>(codes[i] | high << 2);
  }
}

std::uint8_t GridCodes::get(const std::uint8_t* values, std::int64_t step, std::int64_t i) const {
  const CodePlace at = place(step, i);
  int code = (values[at.byte] >> at.shift) & ((1 << plane_bits()) - 1);
  if (bits_ == 3) code |= ((values[at.high_byte] >> at.high_bit) & 1) << 2;
  return static_cast<std::uint8_t>(code);
}

int zero_point(const Weights& w, std::int64_t panel, std::int64_t group, int row) {
  if (w.zeros == nullptr) return w.middle;
  const std::int64_t cell = panel * w.groups + group;
  if (w.bits == 8) return w.zeros[cell * kPanelRows + row];
  return (w.zeros[(cell * kPanelRows + row) / 2] >> (4 * (row % 2))) & 15;
}

void read_step(const Weights& w, std::int64_t panel, std::int64_t step, GridCodes& codes,
               std::uint8_t lanes[64]) {
  const auto* values = static_cast<const std::uint8_t*>(w.values);
  if (w.masks == nullptr) return codes.get(values, step, {lanes, 64});
  const std::int64_t group = w.row_groups ? 0 : step / kChunkSteps / w.group_chunks;
  for (int row = 0; row < kPanelRows; ++row)
    std::memset(lanes + 4 * row, zero_point(w, panel, group, row), 4);
  const std::uint64_t mask = static_cast<const std::uint64_t*>(w.masks)[panel * w.steps + step];
  const int count = std::popcount(mask);
  std::uint8_t stored[65];  // one more: what no lane takes
  codes.get(values, step, {stored, static_cast<std::size_t>(count)});
  for (int lane = 0, next = 0; lane < 64; ++lane) {  // without a branch: the mask is not to be guessed
    const int is_stored = static_cast<int>(mask >> lane & 1);
    lanes[lane] = is_stored != 0 ? stored[next] : lanes[lane];
    next += is_stored;
  }
  codes.advance(step, count);
}

}  // namespace swiftprune
