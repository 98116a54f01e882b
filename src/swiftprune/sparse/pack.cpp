#include "swiftprune/sparse/pack.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kPanelsPerChunk = 4;
constexpr std::array kGroupSizes = {4, 8, 16};

// 0 outside the matrix: panels are whole, the matrix need not be.
std::uint16_t bits_at(const WeightBits& w, std::int64_t row, std::int64_t col) {
  return row < w.rows && col < w.cols ? w.bits[static_cast<std::size_t>(row * w.cols + col)]
                                      : std::uint16_t{0};
}

float to_f32(std::uint16_t bits, DType dtype) {
  return dtype == DType::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

PackedShape shape_of(const WeightBits& w, const PackFormat& format) {
  PackedShape shape;
  shape.kind = format.kind;
  shape.dtype = w.dtype;
  shape.group_n = format.group_n;
  shape.group_m = format.group_m;
  shape.rows = w.rows;
  shape.cols = w.cols;
  return shape;
}

void for_each_panel(const PackedShape& shape, const std::function<void(std::int64_t)>& body) {
  parallel_for(shape.num_panels(), kPanelsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t p = first; p < last; ++p) body(p);
  });
}

// What decides which formats hold a weight and how large they are.
struct Census {
  std::int64_t num_nonzero = 0;
  std::int64_t num_tiles = 0;                      // 16x16 tiles with a nonzero
  std::array<int, kGroupSizes.size()> max_kept{};  // most nonzeros of a group, per group size
};

Census census_of_panel(const WeightBits& w, std::int64_t panel) {
  Census c;
  std::vector<char> tiles(static_cast<std::size_t>(ceil_div(w.cols, kBlockCols)));
  for (std::int64_t r = panel * kPanelRows; r < std::min(w.rows, (panel + 1) * kPanelRows); ++r) {
    for (std::int64_t first = 0; first < w.cols; first += 16) {
      std::uint32_t kept = 0;
      for (std::int64_t j = 0; j < std::min<std::int64_t>(16, w.cols - first); ++j) {
        kept |= (w.bits[static_cast<std::size_t>(r * w.cols + first + j)] != 0 ? 1u : 0u) << j;
      }
      if (kept == 0) continue;
      tiles[static_cast<std::size_t>(first / kBlockCols)] = 1;
      c.num_nonzero += std::popcount(kept);
      for (std::size_t g = 0; g < kGroupSizes.size(); ++g) {
        for (int at = 0; at < 16; at += kGroupSizes[g]) {
          const std::uint32_t group = (kept >> at) & ((1u << kGroupSizes[g]) - 1);
          c.max_kept[g] = std::max(c.max_kept[g], std::popcount(group));
        }
      }
    }
  }
  c.num_tiles = std::count(tiles.begin(), tiles.end(), 1);
  return c;
}

Census census_of(const WeightBits& w) {
  const std::int64_t panels = ceil_div(w.rows, kPanelRows);
  std::vector<Census> parts(static_cast<std::size_t>(panels));
  parallel_for(panels, kPanelsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t p = first; p < last; ++p) parts[static_cast<std::size_t>(p)] = census_of_panel(w, p);
  });
  Census total;
  for (const Census& part : parts) {
    total.num_nonzero += part.num_nonzero;
    total.num_tiles += part.num_tiles;
    for (std::size_t g = 0; g < kGroupSizes.size(); ++g) {
      total.max_kept[g] = std::max(total.max_kept[g], part.max_kept[g]);
    }
  }
  return total;
}

// Quantized values of one row, and its scale.
struct QuantizedRow {
  float scale = 0.0f;
  std::vector<std::uint8_t> values;  // int8 or E4M3
};

QuantizedRow quantize_row(const WeightBits& w, std::int64_t row, PackedKind kind) {
  QuantizedRow q;
  q.values.resize(static_cast<std::size_t>(w.cols));
  float largest = 0.0f;
  for (std::int64_t c = 0; c < w.cols; ++c) {
    const float value = to_f32(bits_at(w, row, c), w.dtype);
    if (!std::isfinite(value)) {
      bad_input("weight [{}, {}]: found {}, {} needs finite weights; pack without quantizing", row, c, value,
                is_int8(kind) ? "int8" : "fp8");
    }
    largest = std::max(largest, std::abs(value));
  }
  q.scale = largest / (is_int8(kind) ? 127.0f : kLargestE4M3);
  if (q.scale == 0.0f) return q;
  for (std::int64_t c = 0; c < w.cols; ++c) {
    const float value = to_f32(bits_at(w, row, c), w.dtype) / q.scale;
    q.values[static_cast<std::size_t>(c)] =
        is_int8(kind) ? static_cast<std::uint8_t>(std::clamp(std::lrint(value), -127L, 127L))
                      : static_cast<std::uint8_t>(f32_to_e4m3(value));
  }
  return q;
}

// The 16 rows of a panel, quantized; rows outside the matrix are empty with scale 0.
std::array<QuantizedRow, kPanelRows> quantize_panel(const WeightBits& w, std::int64_t panel, PackedKind kind,
                                                    PackedBuilder& out) {
  std::array<QuantizedRow, kPanelRows> rows;
  for (std::int64_t r = 0; r < kPanelRows && panel * kPanelRows + r < w.rows; ++r) {
    rows[static_cast<std::size_t>(r)] = quantize_row(w, panel * kPanelRows + r, kind);
    out.scales()[static_cast<std::size_t>(panel * kPanelRows + r)] = rows[static_cast<std::size_t>(r)].scale;
  }
  return rows;
}

PackedTensor pack_dense(const WeightBits& w, PackedShape shape) {
  shape.num_values = w.rows * w.cols;
  PackedBuilder out(shape);
  const bool quantizes = is_8bit(shape.kind);
  const std::int64_t width = quantizes ? 4 : 2;
  const std::int64_t steps = ceil_div(w.cols, width);
  for_each_panel(shape, [&](std::int64_t p) {
    std::array<QuantizedRow, kPanelRows> quantized;
    if (quantizes) quantized = quantize_panel(w, p, shape.kind, out);
    for (std::int64_t r = 0; r < std::min(kPanelRows, w.rows - p * kPanelRows); ++r) {
      for (std::int64_t c = 0; c < w.cols; ++c) {
        const std::int64_t at = ((p * steps + c / width) * kPanelRows + r) * width + c % width;
        if (quantizes) {
          out.values<std::uint8_t>()[at] =
              quantized[static_cast<std::size_t>(r)].values[static_cast<std::size_t>(c)];
        } else {
          out.values<std::uint16_t>()[at] = bits_at(w, p * kPanelRows + r, c);
        }
      }
    }
  });
  return std::move(out).finish();
}

// Counts first (values start where the panels before end), then fills.
template <class Word, int kWidth>
PackedTensor pack_bitmap(const WeightBits& w, PackedShape shape) {
  const std::int64_t panels = shape.num_panels();
  const std::int64_t steps = ceil_div(w.cols, kWidth);
  std::vector<std::uint64_t> offsets(static_cast<std::size_t>(panels + 1));
  for_each_panel(shape, [&](std::int64_t p) {
    offsets[static_cast<std::size_t>(p + 1)] = static_cast<std::uint64_t>(census_of_panel(w, p).num_nonzero);
  });
  for (std::size_t p = 1; p < offsets.size(); ++p) offsets[p] += offsets[p - 1];
  shape.num_values = static_cast<std::int64_t>(offsets.back());
  PackedBuilder out(shape);
  std::copy(offsets.begin(), offsets.end(), out.offsets().begin());
  for_each_panel(shape, [&](std::int64_t p) {
    std::array<QuantizedRow, kPanelRows> quantized;
    if constexpr (kWidth == 4) quantized = quantize_panel(w, p, shape.kind, out);
    std::uint64_t at = offsets[static_cast<std::size_t>(p)];
    for (std::int64_t s = 0; s < steps; ++s) {
      Word mask = 0;
      for (std::int64_t r = 0; r < kPanelRows; ++r) {
        for (std::int64_t j = 0; j < kWidth; ++j) {
          const std::int64_t c = s * kWidth + j;
          const std::uint16_t bits = bits_at(w, p * kPanelRows + r, c);
          if (bits == 0) continue;
          mask |= Word{1} << (r * kWidth + j);
          if constexpr (kWidth == 4) {
            out.values<std::uint8_t>()[at++] =
                quantized[static_cast<std::size_t>(r)].values[static_cast<std::size_t>(c)];
          } else {
            out.values<std::uint16_t>()[at++] = bits;
          }
        }
      }
      out.masks<Word>()[p * steps + s] = mask;
    }
  });
  return std::move(out).finish();
}

// The N positions to store of one group: its nonzeros, and the lowest zeros when there are fewer.
std::uint32_t kept_positions(const WeightBits& w, std::int64_t row, std::int64_t first, int n, int m) {
  std::uint32_t kept = 0;
  for (int i = 0; i < m; ++i) kept |= (bits_at(w, row, first + i) != 0 ? 1u : 0u) << i;
  if (std::popcount(kept) > n) {
    bad_input("row {}, columns {} to {}: found {} weights, expected at most {} of {}", row, first,
              first + m - 1, std::popcount(kept), n, m);
  }
  for (int i = 0; std::popcount(kept) < n; ++i) kept |= 1u << i;
  return kept;
}

PackedTensor pack_nm(const WeightBits& w, PackedShape shape) {
  const int n = shape.group_n;
  const int m = shape.group_m;
  if (std::find(kGroupSizes.begin(), kGroupSizes.end(), m) == kGroupSizes.end() || n < 1 || n >= m ||
      w.cols % m != 0) {
    bad_input("pack: found {}:{} over {} columns, expected 1 <= N < M, M of 4, 8 or 16 dividing the columns",
              n, m, w.cols);
  }
  const std::int64_t groups = w.cols / m;
  shape.num_values = w.rows * groups * n;
  PackedBuilder out(shape);
  for_each_panel(shape, [&](std::int64_t p) {
    for (std::int64_t g = 0; g < groups; ++g) {
      for (std::int64_t r = 0; r < kPanelRows; ++r) {
        const std::int64_t row = p * kPanelRows + r;
        std::uint32_t kept = kept_positions(w, row, g * m, n, m);
        for (int j = 0; j < n; ++j, kept &= kept - 1) {
          const int index = std::countr_zero(kept);
          const std::int64_t slot = p * shape.num_slots() + g * n + j;
          if (m == 4) {
            out.indices<std::uint32_t>()[slot] |= static_cast<std::uint32_t>(index) << (2 * r);
          } else {
            out.indices<std::uint64_t>()[slot] |= static_cast<std::uint64_t>(index) << (4 * r);
          }
          out.values<std::uint16_t>()[(slot & ~std::int64_t{1}) * kPanelRows + 2 * r + (slot & 1)] =
              bits_at(w, row, g * m + index);
        }
      }
    }
  });
  return std::move(out).finish();
}

PackedTensor pack_blocks(const WeightBits& w, PackedShape shape) {
  const std::int64_t tile_cols = ceil_div(w.cols, kBlockCols);
  constexpr std::int64_t kTile = kPanelRows * kBlockCols;
  std::vector<std::vector<std::uint32_t>> columns(static_cast<std::size_t>(shape.num_panels()));
  for_each_panel(shape, [&](std::int64_t p) {
    for (std::int64_t t = 0; t < tile_cols; ++t) {
      bool any = false;
      for (std::int64_t i = 0; i < kTile && !any; ++i) {
        any = bits_at(w, p * kPanelRows + i / kBlockCols, t * kBlockCols + i % kBlockCols) != 0;
      }
      if (any) columns[static_cast<std::size_t>(p)].push_back(static_cast<std::uint32_t>(t));
    }
  });
  for (const auto& panel : columns) shape.num_values += static_cast<std::int64_t>(panel.size()) * kTile;
  PackedBuilder out(shape);
  std::int64_t tile = 0;
  for (std::int64_t p = 0; p < shape.num_panels(); ++p) {
    for (const std::uint32_t column : columns[static_cast<std::size_t>(p)]) {
      out.columns()[tile] = column;
      for (std::int64_t i = 0; i < kTile; ++i) {
        const std::int64_t r = i % (2 * kPanelRows) / 2;
        const std::int64_t c = i / (2 * kPanelRows) * 2 + i % 2;
        out.values<std::uint16_t>()[tile * kTile + i] =
            bits_at(w, p * kPanelRows + r, column * kBlockCols + c);
      }
      ++tile;
    }
    out.offsets()[static_cast<std::size_t>(p + 1)] = static_cast<std::uint64_t>(tile);
  }
  return std::move(out).finish();
}

}  // namespace

std::string_view name_of(Quantize quantize) {
  return quantize == Quantize::kInt8 ? "int8" : quantize == Quantize::kFp8 ? "fp8" : "none";
}

std::vector<FormatSize> formats_for(const WeightBits& w, Quantize quantize) {
  const Census census = census_of(w);
  std::vector<FormatSize> sizes;
  const auto add = [&](const PackFormat& format, std::int64_t num_values) {
    PackedShape shape = shape_of(w, format);
    shape.num_values = num_values;
    sizes.push_back({format, sections_of(shape).num_bytes});
  };
  if (quantize == Quantize::kInt8) {
    if (w.cols > kMaxInt8Cols) return formats_for(w, Quantize::kNone);
    add({PackedKind::kDenseInt8}, w.rows * w.cols);
    add({PackedKind::kBitmapInt8}, census.num_nonzero);
  } else if (quantize == Quantize::kFp8) {
    add({PackedKind::kDenseFp8}, w.rows * w.cols);
    add({PackedKind::kBitmapFp8}, census.num_nonzero);
  } else {
    add({PackedKind::kDense16}, w.rows * w.cols);
    add({PackedKind::kBlock16}, census.num_tiles * kPanelRows * kBlockCols);
    for (std::size_t g = 0; g < kGroupSizes.size(); ++g) {
      const int m = kGroupSizes[g];
      const int n = std::max(1, census.max_kept[g]);
      if (w.cols % m == 0 && n < m) add({PackedKind::kNm16, n, m}, w.rows * (w.cols / m) * n);
    }
    add({PackedKind::kBitmap16}, census.num_nonzero);
  }
  std::stable_sort(sizes.begin(), sizes.end(),
                   [](const FormatSize& a, const FormatSize& b) { return a.num_bytes < b.num_bytes; });
  return sizes;
}

PackedTensor pack(const WeightBits& w, const PackFormat& format) {
  expect(w.rows > 0 && w.cols > 0 && std::ssize(w.bits) == w.rows * w.cols, "pack: bits of the whole matrix");
  expect(w.dtype == DType::kBF16 || w.dtype == DType::kF16, "pack: 16-bit weights");
  const PackedShape shape = shape_of(w, format);
  if (is_int8(format.kind) && w.cols > kMaxInt8Cols) {
    bad_input("pack: found {} columns, expected at most {} in int8", w.cols, kMaxInt8Cols);
  }
  switch (format.kind) {
    case PackedKind::kDense16:
    case PackedKind::kDenseInt8:
    case PackedKind::kDenseFp8:
      return pack_dense(w, shape);
    case PackedKind::kBitmap16:
      return pack_bitmap<std::uint32_t, 2>(w, shape);
    case PackedKind::kBitmapInt8:
    case PackedKind::kBitmapFp8:
      return pack_bitmap<std::uint64_t, 4>(w, shape);
    case PackedKind::kNm16:
      return pack_nm(w, shape);
    case PackedKind::kBlock16:
      return pack_blocks(w, shape);
    case PackedKind::kDenseGrid:
    case PackedKind::kBitmapGrid:
    case PackedKind::kNmGrid:
      break;  // of a QuantizedWeight
  }
  expect(false, "pack: a known kind");
  return pack_dense(w, shape);
}

}  // namespace swiftprune
