// Plain loops for any processor; also the expansions that no instruction set speeds up enough to matter.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "swiftprune/sparse/grid_codes.h"
#include "swiftprune/sparse/kernels.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune::sparse_kernels {
namespace {

template <bool kF16>
float to_f32(std::uint16_t bits) {
  if constexpr (kF16) {
    return f16_to_f32(bits);
  } else {
    return bf16_to_f32(bits);
  }
}

float* tile_at(const ExpandArgs& a, std::int64_t pair) {
  return static_cast<float*>(a.tile) + (pair - a.first_pair) * 2 * kRows;
}

void clear_tile(const ExpandArgs& a) { std::fill(tile_at(a, a.first_pair), tile_at(a, a.last_pair), 0.0f); }

template <bool kF16>
std::int64_t expand_dense(const ExpandArgs& a) {
  const auto* values = static_cast<const std::uint16_t*>(a.weights->values) + a.panel * a.weights->steps * 32;
  for (std::int64_t k = a.first_pair; k < a.last_pair; ++k) {
    for (int lane = 0; lane < 32; ++lane) {
      tile_at(a, k)[lane % 2 * kRows + lane / 2] = to_f32<kF16>(values[k * 32 + lane]);
    }
  }
  return 0;
}

template <bool kF16>
std::int64_t expand_bitmap(const ExpandArgs& a) {
  clear_tile(a);
  const auto* masks = static_cast<const std::uint32_t*>(a.weights->masks) + a.panel * a.weights->steps;
  const auto* first = static_cast<const std::uint16_t*>(a.weights->values) + a.weights->offsets[a.panel];
  const std::uint16_t* value = first + a.cursor;
  for (std::int64_t k = a.first_pair; k < a.last_pair; ++k) {
    for (std::uint32_t mask = masks[k]; mask != 0; mask &= mask - 1) {
      const int lane = std::countr_zero(mask);
      tile_at(a, k)[lane % 2 * kRows + lane / 2] = to_f32<kF16>(*value++);
    }
  }
  return value - first;
}

template <bool kF16>
std::int64_t expand_nm(const ExpandArgs& a) {
  clear_tile(a);
  const Weights& w = *a.weights;
  const auto* values = static_cast<const std::uint16_t*>(w.values) + a.panel * w.slots * kRows;
  const std::int64_t first = 2 * a.first_pair / w.group_m * w.group_n;
  const std::int64_t last = std::min(w.used_slots, (2 * a.last_pair + w.group_m - 1) / w.group_m * w.group_n);
  for (std::int64_t s = first; s < last; ++s) {
    const std::int64_t at = a.panel * w.slots + s;
    const std::uint64_t word = w.group_m == 4 ? static_cast<const std::uint32_t*>(w.indices)[at]
                                              : static_cast<const std::uint64_t*>(w.indices)[at];
    const int bits = w.group_m == 4 ? 2 : 4;
    for (int r = 0; r < kRows; ++r) {
      const auto index = static_cast<std::int64_t>((word >> (bits * r)) & ((1u << bits) - 1));
      const std::int64_t col = s / w.group_n * w.group_m + index;
      tile_at(a, col / 2)[col % 2 * kRows + r] =
          to_f32<kF16>(values[(s & ~std::int64_t{1}) * kRows + 2 * r + (s & 1)]);
    }
  }
  return 0;
}

template <bool kF16>
std::int64_t expand_block(const ExpandArgs& a) {
  clear_tile(a);
  const Weights& w = *a.weights;
  const auto num_tiles = static_cast<std::int64_t>(w.offsets[a.panel + 1] - w.offsets[a.panel]);
  const std::uint32_t* columns = w.columns + w.offsets[a.panel];
  const auto* values = static_cast<const std::uint16_t*>(w.values) + w.offsets[a.panel] * 256;
  std::int64_t t = a.cursor;
  for (; t < num_tiles && std::int64_t{8} * columns[t] < a.last_pair; ++t) {
    for (std::int64_t k = 0; k < std::min<std::int64_t>(8, a.last_pair - 8 * columns[t]); ++k) {
      for (int lane = 0; lane < 32; ++lane) {
        tile_at(a, 8 * columns[t] + k)[lane % 2 * kRows + lane / 2] =
            to_f32<kF16>(values[t * 256 + k * 32 + lane]);
      }
    }
  }
  return t;
}

float to_f32(std::int8_t value) { return value; }
float to_f32(E4M3 value) {
  static const std::array<float, 256> kTable = [] {
    std::array<float, 256> table{};
    for (unsigned i = 0; i < table.size(); ++i) table[i] = e4m3_to_f32(static_cast<E4M3>(i));
    return table;
  }();
  return kTable[static_cast<std::uint8_t>(value)];
}

template <class Value>
std::int64_t expand_dense_8bit(const ExpandArgs& a) {
  const auto* values = static_cast<const Value*>(a.weights->values) + a.panel * a.weights->steps * 64;
  for (std::int64_t k = a.first_pair; k < a.last_pair; ++k) {
    for (int lane = 0; lane < 32; ++lane) {
      tile_at(a, k)[lane % 2 * kRows + lane / 2] =
          to_f32(values[k / 2 * 64 + lane / 2 * 4 + k % 2 * 2 + lane % 2]);
    }
  }
  return 0;
}

template <class Value>
std::int64_t expand_bitmap_8bit(const ExpandArgs& a) {
  clear_tile(a);
  const auto* masks = static_cast<const std::uint64_t*>(a.weights->masks) + a.panel * a.weights->steps;
  const auto* first = static_cast<const Value*>(a.weights->values) + a.weights->offsets[a.panel];
  const Value* value = first + a.cursor;
  for (std::int64_t k = a.first_pair; k < a.last_pair; k += 2) {
    for (std::uint64_t mask = masks[k / 2]; mask != 0; mask &= mask - 1) {
      const int lane = std::countr_zero(mask);
      const std::int64_t pair = k + lane % 4 / 2;
      const float weight = to_f32(*value++);
      if (pair < a.last_pair) tile_at(a, pair)[lane % 2 * kRows + lane / 4] = weight;
    }
  }
  return value - first;
}

// Any kind and any bits.
std::int64_t expand_grid(const ExpandArgs& a) {
  const Weights& w = *a.weights;
  GridCodes codes = GridCodes::of(w, a.panel);
  codes.cursor = *a.grid_cursor;
  for (std::int64_t k = a.first_pair; k < a.last_pair; k += 2) {
    const std::int64_t step = k / 2;
    const std::int64_t group = w.row_groups ? 0 : step / kChunkSteps / w.group_chunks;
    std::uint8_t lanes[64];
    read_step(w, a.panel, step, codes, lanes);
    for (int r = 0; r < kRows; ++r) {
      const float scale = f16_to_f32(w.scales[(a.panel * w.groups + group) * kRows + r]);
      const int zero = zero_point(w, a.panel, group, r);
      for (int j = 0; j < 4; ++j) {
        tile_at(a, k + j / 2)[j % 2 * kRows + r] = static_cast<float>(lanes[4 * r + j] - zero) * scale;
      }
    }
  }
  *a.grid_cursor = codes.cursor;
  return 0;
}

constexpr int kTokens = 4;

void multiply(const GemmArgs& a) {
  const auto* x = static_cast<const float*>(a.x);
  for (int p = 0; p < a.num_panels; ++p) {
    const auto* tile = static_cast<const float*>(a.tiles[p]);
    for (int t = 0; t < kTokens; ++t) {
      float* c = a.c + t * a.c_stride + p * kRows;
      float sums[kRows];
      std::memcpy(sums, c, sizeof sums);
      for (std::int64_t k = 0; k < 2 * a.pairs; ++k) {
        const float xk = x[(k / 2 * kTokens + t) * 2 + k % 2];
        for (int r = 0; r < kRows; ++r) sums[r] += xk * tile[k * kRows + r];
      }
      std::memcpy(c, sums, sizeof sums);
    }
  }
}

}  // namespace

const Table kBaselineTable = {
    .name = "baseline",
    .expand_f32 = {{expand_dense<false>, expand_dense<true>},
                   {expand_bitmap<false>, expand_bitmap<true>},
                   {expand_nm<false>, expand_nm<true>},
                   {expand_block<false>, expand_block<true>}},
    .expand_f32_int8 = {expand_dense_8bit<std::int8_t>, expand_bitmap_8bit<std::int8_t>},
    .expand_f32_fp8 = {expand_dense_8bit<E4M3>, expand_bitmap_8bit<E4M3>},
    .gemm_f32 = {kTokens, 1, multiply},
    .expand_f32_grid = {{expand_grid, expand_grid, expand_grid},
                        {expand_grid, expand_grid, expand_grid},
                        {expand_grid, expand_grid, expand_grid}},
};

}  // namespace swiftprune::sparse_kernels
