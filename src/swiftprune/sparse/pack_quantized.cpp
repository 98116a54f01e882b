#include "swiftprune/sparse/pack_quantized.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/sparse/grid_codes.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kPanelsPerChunk = 4;

void for_each_panel(std::int64_t panels, const std::function<void(std::int64_t)>& body) {
  parallel_for(panels, kPanelsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t p = first; p < last; ++p) body(p);
  });
}

PackedShape shape_of(const QuantizedWeight& w, const PackFormat& format) {
  PackedShape shape;
  shape.kind = format.kind;
  shape.dtype = DType::kF32;
  shape.group_n = format.group_n;
  shape.group_m = format.group_m;
  shape.rows = w.rows;
  shape.cols = w.cols;
  shape.grid = w.grid;
  return shape;
}

void check_weight(const QuantizedWeight& w) {
  expect(w.rows > 0 && w.cols > 0 && std::ssize(w.codes) == w.rows * w.cols,
         "pack: codes of the whole matrix");
  check_grid(w.grid, w.cols, "pack");
  const std::int64_t groups = w.grid.groups_of(w.cols);
  expect(std::ssize(w.scales) == w.rows * groups &&
             std::ssize(w.zeros) == (w.grid.asymmetric ? w.rows * groups : 0),
         "pack: a scale a group, and a zero point where the grid has them");
  const auto too_large = [&w](std::uint8_t code) { return code >= w.grid.num_codes(); };
  if (std::ranges::any_of(w.codes, too_large) || std::ranges::any_of(w.zeros, too_large)) {
    bad_input("pack: found a code or zero point above {}, the largest of {} bits", w.grid.num_codes() - 1,
              w.grid.bits);
  }
  for (const std::uint16_t bits : w.scales) {
    const float scale = f16_to_f32(bits);
    if (!std::isfinite(scale) || scale <= 0.0f) {
      bad_input("pack: found a scale of {}, expected a finite number above 0", scale);
    }
  }
}

// The lanes of a step (4·row + column) whose weight is not zero.
std::uint64_t nonzero_lanes(const QuantizedWeight& w, std::int64_t panel, std::int64_t step) {
  std::uint64_t lanes = 0;
  const std::int64_t first = step * 4;
  if (first >= w.cols) return 0;
  const std::int64_t group = w.grid.group == 0 ? 0 : first / w.grid.group;
  for (std::int64_t r = 0; r < std::min(kPanelRows, w.rows - panel * kPanelRows); ++r) {
    const std::int64_t row = panel * kPanelRows + r;
    const int zero = w.zero_of(row, group);
    for (std::int64_t j = 0; j < std::min<std::int64_t>(4, w.cols - first); ++j) {
      const bool stored = w.codes[static_cast<std::size_t>(row * w.cols + first + j)] != zero;
      lanes |= std::uint64_t{stored} << (4 * r + j);
    }
  }
  return lanes;
}

// Exactly n lanes of every row's four: its nonzeros, and the lowest others.
std::uint64_t exactly_n(std::uint64_t lanes, int n, std::int64_t panel, std::int64_t step,
                        std::int64_t rows) {
  for (std::int64_t r = 0; r < std::min(kPanelRows, rows - panel * kPanelRows); ++r) {
    auto kept = static_cast<unsigned>(lanes >> (4 * r)) & 15u;
    if (std::popcount(kept) > n) {
      bad_input("row {}, columns {} to {}: found {} weights, expected at most {} of 4",
                panel * kPanelRows + r, 4 * step, 4 * step + 3, std::popcount(kept), n);
    }
    for (unsigned bit = 1; std::popcount(kept) < n; bit <<= 1) kept |= bit;
    lanes |= std::uint64_t{kept} << (4 * r);
  }
  return lanes;
}

// What decides which formats hold a weight, and how large they are.
struct Census {
  std::int64_t num_nonzero = 0;
  int max_kept = 0;                                 // of four inputs
  std::vector<std::array<std::int64_t, 2>> planes;  // bytes of a panel's plane, and of its third bits
};

Census census_of(const QuantizedWeight& w) {
  const std::int64_t panels = ceil_div(w.rows, kPanelRows);
  const std::int64_t steps = ceil_div(w.cols, kChunkCols) * kChunkSteps;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(panels));
  std::vector<int> kept(static_cast<std::size_t>(panels));
  Census census;
  census.planes.resize(static_cast<std::size_t>(panels));
  for_each_panel(panels, [&](std::int64_t p) {
    const auto i = static_cast<std::size_t>(p);
    GridCodes codes = GridCodes::streams(w.grid.bits, 0, 0);
    for (std::int64_t s = 0; s < steps; ++s) {
      const std::uint64_t lanes = nonzero_lanes(w, p, s);
      codes.advance(s, std::popcount(lanes));
      for (int r = 0; r < kPanelRows; ++r) {
        kept[i] = std::max(kept[i], std::popcount((lanes >> (4 * r)) & 15u));
      }
    }
    counts[i] = codes.cursor.total;
    census.planes[i] = {*std::ranges::max_element(codes.cursor.at), ceil_div(codes.cursor.total, 8)};
  });
  for (const std::int64_t count : counts) census.num_nonzero += count;
  census.max_kept = *std::ranges::max_element(kept);
  return census;
}

PackedShape bitmap_shape(const QuantizedWeight& w, const Census& census) {
  PackedShape shape = shape_of(w, {PackedKind::kBitmapGrid});
  shape.num_values = census.num_nonzero;
  for (const auto& planes : census.planes) shape.code_bytes += planes[0] + (w.grid.bits == 3 ? planes[1] : 0);
  return shape;
}

PackedShape fixed_shape(const QuantizedWeight& w, const PackFormat& format) {
  PackedShape shape = shape_of(w, format);
  const bool nm = format.kind == PackedKind::kNmGrid;
  shape.num_values = nm ? w.rows * (w.cols / kNmGridColumns) * format.group_n : w.rows * w.cols;
  return shape;
}

void fill_offsets(const Census& census, int bits, std::span<std::uint64_t> offsets) {
  std::size_t next = 0;
  for (const auto& planes : census.planes) {
    for (int plane = 0; plane < (bits == 3 ? 2 : 1); ++plane, ++next) {
      offsets[next + 1] = offsets[next] + static_cast<std::uint64_t>(planes[static_cast<std::size_t>(plane)]);
    }
  }
}

void fill_scales(const QuantizedWeight& w, PackedBuilder& out) {
  const std::int64_t groups = w.grid.groups_of(w.cols);
  for (std::int64_t row = 0; row < w.rows; ++row) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const auto from = static_cast<std::size_t>(row * groups + g);
      const std::int64_t to = (row / kPanelRows * groups + g) * kPanelRows + row % kPanelRows;
      out.group_scales()[to] = w.scales[from];
      if (!w.grid.asymmetric) continue;
      if (w.grid.bits == 8) {
        out.zeros()[to] = w.zeros[from];
      } else {
        out.zeros()[to / 2] =
            static_cast<std::uint8_t>(out.zeros()[to / 2] | w.zeros[from] << (4 * (to % 2)));
      }
    }
  }
}

}  // namespace

std::vector<FormatSize> formats_for(const QuantizedWeight& w) {
  check_weight(w);
  const Census census = census_of(w);
  std::vector<FormatSize> sizes;
  const auto add = [&sizes](const PackedShape& shape) {
    sizes.push_back({{shape.kind, shape.group_n, shape.group_m}, sections_of(shape).num_bytes});
  };
  add(fixed_shape(w, {PackedKind::kDenseGrid}));
  const int n = std::max(1, census.max_kept);
  if (w.cols % kNmGridColumns == 0 && n < kNmGridColumns) {
    add(fixed_shape(w, {PackedKind::kNmGrid, n, kNmGridColumns}));
  }
  add(bitmap_shape(w, census));
  std::ranges::stable_sort(sizes, {}, &FormatSize::num_bytes);
  return sizes;
}

PackedTensor pack(const QuantizedWeight& w, const PackFormat& format) {
  check_weight(w);
  expect(is_grid(format.kind), "pack: a grid kind");
  const bool bitmap = format.kind == PackedKind::kBitmapGrid;
  const bool nm = format.kind == PackedKind::kNmGrid;
  if (nm && (format.group_m != kNmGridColumns || format.group_n < 1 || format.group_n >= kNmGridColumns ||
             w.cols % kNmGridColumns != 0)) {
    bad_input("pack: found {}:{} over {} columns, expected N of 4, 1 <= N < 4, 4 dividing the columns",
              format.group_n, format.group_m, w.cols);
  }
  const Census census = bitmap ? census_of(w) : Census{};
  const PackedShape shape = bitmap ? bitmap_shape(w, census) : fixed_shape(w, format);
  PackedBuilder out(shape);
  fill_scales(w, out);
  if (bitmap) fill_offsets(census, w.grid.bits, out.offsets());
  const std::int64_t steps = shape.num_chunks() * kChunkSteps;
  sparse_kernels::Weights view;
  view.bits = w.grid.bits;
  view.chunks = shape.num_chunks();
  view.group_n = shape.group_n;
  view.offsets = bitmap ? out.offsets().data() : nullptr;
  for_each_panel(shape.num_panels(), [&](std::int64_t p) {
    GridCodes codes = GridCodes::of(view, p);
    for (std::int64_t s = 0; s < steps && 4 * s < w.cols; ++s) {
      std::uint64_t lanes = ~std::uint64_t{0};
      if (bitmap || nm) {
        lanes = nonzero_lanes(w, p, s);
        if (nm) lanes = exactly_n(lanes, shape.group_n, p, s, w.rows);
        out.masks<std::uint64_t>()[p * steps + s] = lanes;
      }
      std::int64_t i = 0;
      for (; lanes != 0; lanes &= lanes - 1, ++i) {
        const int lane = std::countr_zero(lanes);
        const std::int64_t row = p * kPanelRows + lane / 4;
        const std::int64_t col = 4 * s + lane % 4;
        if (row >= w.rows || col >= w.cols) continue;  // of a dense panel's padding
        codes.put(out.values<std::uint8_t>(), s, i, w.codes[static_cast<std::size_t>(row * w.cols + col)]);
      }
      codes.advance(s, i);
    }
  });
  return std::move(out).finish();
}

QuantizedWeight unpack_quantized(const PackedTensor& packed) {
  expect(is_grid(packed.kind()), "unpack_quantized: a grid kind");
  const sparse_kernels::Weights view = kernel_view(packed);
  QuantizedWeight w;
  w.grid = packed.shape().grid;
  w.rows = packed.rows();
  w.cols = packed.cols();
  w.codes.resize(static_cast<std::size_t>(w.rows * w.cols));
  const auto scales = static_cast<std::size_t>(w.rows * view.groups);
  w.scales.resize(scales);
  if (w.grid.asymmetric) w.zeros.resize(scales);
  for_each_panel(packed.shape().num_panels(), [&](std::int64_t p) {
    const std::int64_t rows = std::min(kPanelRows, w.rows - p * kPanelRows);
    for (std::int64_t i = 0; i < rows * view.groups; ++i) {
      const std::int64_t r = i / view.groups;
      const std::int64_t g = i % view.groups;
      const auto to = static_cast<std::size_t>((p * kPanelRows + r) * view.groups + g);
      w.scales[to] = view.scales[(p * view.groups + g) * kPanelRows + r];
      if (w.grid.asymmetric)
        w.zeros[to] = static_cast<std::uint8_t>(zero_point(view, p, g, static_cast<int>(r)));
    }
    GridCodes codes = GridCodes::of(view, p);
    for (std::int64_t s = 0; s < view.steps; ++s) {
      std::uint8_t lanes[64];
      read_step(view, p, s, codes, lanes);
      for (std::int64_t lane = 0; lane < 4 * rows; ++lane) {
        const std::int64_t col = 4 * s + lane % 4;
        if (col < w.cols) {
          w.codes[static_cast<std::size_t>((p * kPanelRows + lane / 4) * w.cols + col)] = lanes[lane];
        }
      }
    }
  });
  return w;
}

}  // namespace swiftprune
