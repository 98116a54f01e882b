#include "swiftprune/sparse/pack_quantized.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/sparse/grid_codes.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kPanelsPerChunk = 4;

void for_each_panel(std::int64_t panels, const std::function<void(std::int64_t)>& body) {
  parallel_for(panels, kPanelsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t p = first; p < last; ++p) body(p);
  });
}

PackedShape dense_grid_shape(const QuantGrid& grid, std::int64_t rows, std::int64_t cols) {
  PackedShape shape;
  shape.kind = PackedKind::kDenseGrid;
  shape.dtype = DType::kF32;
  shape.rows = rows;
  shape.cols = cols;
  shape.num_values = rows * cols;
  shape.grid = grid;
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
  const std::int64_t chunk = 1 << 16;
  const auto check = [&](std::span<const std::uint8_t> codes) {
    parallel_for(std::ssize(codes), chunk, [&](std::int64_t first, std::int64_t last) {
      std::uint8_t largest = 0;
      for (std::int64_t i = first; i < last; ++i)
        largest = std::max(largest, codes[static_cast<std::size_t>(i)]);
      if (largest < w.grid.num_codes()) return;
      bad_input("pack: found a code or zero point above {}, the largest of {} bits", w.grid.num_codes() - 1,
                w.grid.bits);
    });
  };
  check(w.codes);
  check(w.zeros);
  for (const std::uint16_t bits : w.scales) {
    if (bits == 0 || bits >= 0x7c00) {  // zero, negative, infinite or no number
      bad_input("pack: found a scale of {}, expected a finite number above 0", f16_to_f32(bits));
    }
  }
}

// The 64 codes of a step.
struct Quads {
  std::uint64_t nonzero = 0;    // lanes (4·row + column) whose weight is not zero
  std::uint8_t codes[64] = {};  // by lane; 0 outside of the matrix
};

// A panel's codes, step after step.
class PanelReader {
 public:
  PanelReader(const QuantizedWeight& w, std::int64_t panel)
      : w_(w),
        first_row_(panel * kPanelRows),
        rows_(static_cast<int>(std::min(kPanelRows, w.rows - first_row_))) {}

  Quads step(std::int64_t step) {
    Quads quads;
    const std::int64_t column = 4 * step;
    if (column >= w_.cols) return quads;
    set_group(w_.grid.group == 0 ? 0 : column / w_.grid.group);
    const auto columns = static_cast<std::size_t>(std::min<std::int64_t>(4, w_.cols - column));
    const std::uint8_t* from = w_.codes.data() + first_row_ * w_.cols + column;
    for (int r = 0; r < rows_; ++r, from += w_.cols) {
      std::uint32_t four = zeros_[r];
      std::memcpy(&four, from, columns);
      quads.nonzero |= std::uint64_t{other_bytes(four ^ zeros_[r])} << (4 * r);
      std::memcpy(quads.codes + 4 * r, from, columns);
    }
    return quads;
  }

 private:
  // Bit i: byte i is not zero.
  static std::uint32_t other_bytes(std::uint32_t four) {
    const std::uint32_t high = ((four & 0x7f7f7f7fu) + 0x7f7f7f7fu) | four;
    return (high >> 7 & 0x01010101u) * 0x01020408u >> 24 & 15u;
  }
  void set_group(std::int64_t group) {
    if (group == group_) return;
    group_ = group;
    for (int r = 0; r < rows_; ++r)
      zeros_[r] = 0x01010101u * static_cast<std::uint32_t>(w_.zero_of(first_row_ + r, group));
  }
  const QuantizedWeight& w_;
  std::int64_t first_row_;
  int rows_;
  std::int64_t group_ = -1;
  std::uint32_t zeros_[kPanelRows] = {};  // of the group, four times
};

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
    PanelReader reader(w, p);
    for (std::int64_t s = 0; s < steps; ++s) {
      const std::uint64_t lanes = reader.step(s).nonzero;
      codes.advance(s, std::popcount(lanes));
      while (kept[i] < kNmGridColumns && keeps_more(lanes, kept[i])) ++kept[i];
    }
    counts[i] = codes.cursor.total;
    census.planes[i] = {*std::ranges::max_element(codes.cursor.at), ceil_div(codes.cursor.total, 8)};
  });
  for (const std::int64_t count : counts) census.num_nonzero += count;
  census.max_kept = *std::ranges::max_element(kept);
  return census;
}

PackedShape bitmap_shape(const QuantizedWeight& w, const Census& census) {
  PackedShape shape = dense_grid_shape(w.grid, w.rows, w.cols);
  shape.kind = PackedKind::kBitmapGrid;
  shape.num_values = census.num_nonzero;
  for (const auto& planes : census.planes) shape.code_bytes += planes[0] + (w.grid.bits == 3 ? planes[1] : 0);
  return shape;
}

PackedShape fixed_shape(const QuantizedWeight& w, const PackFormat& format) {
  PackedShape shape = dense_grid_shape(w.grid, w.rows, w.cols);
  if (format.kind != PackedKind::kNmGrid) return shape;
  shape.kind = format.kind;
  shape.group_n = format.group_n;
  shape.group_m = format.group_m;
  shape.num_values = w.rows * (w.cols / kNmGridColumns) * format.group_n;
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

std::vector<FormatSize> formats_for(const QuantizedWeight& w, const Census& census) {
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

// census: of a bitmap
PackedTensor pack(const QuantizedWeight& w, const PackFormat& format, const Census& census) {
  expect(is_grid(format.kind), "pack: a grid kind");
  const bool bitmap = format.kind == PackedKind::kBitmapGrid;
  const bool nm = format.kind == PackedKind::kNmGrid;
  if (nm && (format.group_m != kNmGridColumns || format.group_n < 1 || format.group_n >= kNmGridColumns ||
             w.cols % kNmGridColumns != 0)) {
    bad_input("pack: found {}:{} over {} columns, expected N of 4, 1 <= N < 4, 4 dividing the columns",
              format.group_n, format.group_m, w.cols);
  }
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
    PanelReader reader(w, p);
    for (std::int64_t s = 0; s < steps && 4 * s < w.cols; ++s) {
      const Quads quads = reader.step(s);
      if (!bitmap && !nm) {
        codes.put(out.values<std::uint8_t>(), s, quads.codes);
        continue;
      }
      const std::uint64_t lanes = nm ? exactly_n(quads.nonzero, shape.group_n, p, s, w.rows) : quads.nonzero;
      out.masks<std::uint64_t>()[p * steps + s] = lanes;
      std::uint8_t stored[65];  // one more: a place for what is not stored behind the last one
      int count = 0;
      for (int lane = 0; lane < 64; ++lane) {  // without a branch: the mask is not to be guessed
        stored[count] = quads.codes[lane];
        count += static_cast<int>(lanes >> lane & 1);
      }
      codes.put(out.values<std::uint8_t>(), s, {stored, static_cast<std::size_t>(count)});
      codes.advance(s, count);
    }
  });
  return std::move(out).finish();
}

QuantGrid table_grid(std::int64_t cols, int bits) {
  expect(bits == 8 || bits == 4, "tables have 8 or 4 bits");
  if (bits == 8) return {8, 0, false};
  const auto* fits = std::ranges::find_if(kQuantGroups, [cols](std::int64_t g) { return cols % g == 0; });
  return {4, fits == std::end(kQuantGroups) ? 0 : *fits, true};
}

// The smallest f16 that is not below, and above zero.
std::uint16_t scale_above(float value, const std::string& name) {
  std::uint16_t bits = std::max<std::uint16_t>(f32_to_f16(value), 1);
  if (f16_to_f32(bits) < value) ++bits;
  if (bits >= 0x7c00) bad_input("{}: found a group that needs a scale of {}, too large for f16", name, value);
  return bits;
}

// `values` as group `at` of scales, codes from `first` on: the grid spans the group's values and zero.
void quantize_group(std::span<const float> values, QuantizedWeight& w, std::int64_t at, std::int64_t first,
                    const std::string& name) {
  float low = 0.0f, high = 0.0f;
  for (const float value : values) {
    if (!std::isfinite(value)) bad_input("{}: found {}, few bits need finite values", name, value);
    low = std::min(low, value);
    high = std::max(high, value);
  }
  const int last_code = w.grid.num_codes() - 1;
  const int half = w.grid.middle() - 1;  // symmetric: codes 1 to 2·middle - 1
  const float span = w.grid.asymmetric ? (high - low) / static_cast<float>(last_code)
                                       : std::max(high, -low) / static_cast<float>(half);
  const std::uint16_t bits = scale_above(span, name);
  const float scale = f16_to_f32(bits);
  int zero = w.grid.middle();
  if (w.grid.asymmetric) {
    zero = std::clamp(static_cast<int>(std::lrint(-low / scale)), 0, last_code);
    w.zeros[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(zero);
  }
  w.scales[static_cast<std::size_t>(at)] = bits;
  for (const float value : values) {
    const int code = std::clamp(static_cast<int>(std::lrint(value / scale)) + zero, 0, last_code);
    w.codes[static_cast<std::size_t>(first++)] = static_cast<std::uint8_t>(code);
  }
}

}  // namespace

double grid_bytes(const QuantGrid& grid, std::int64_t rows, std::int64_t cols, std::int64_t num_nonzero) {
  PackedShape bitmap = dense_grid_shape(grid, rows, cols);
  bitmap.kind = PackedKind::kBitmapGrid;
  bitmap.num_values = num_nonzero;
  bitmap.code_bytes = ceil_div(num_nonzero * grid.bits, 8);
  return static_cast<double>(std::min(dense_grid_bytes(grid, rows, cols), sections_of(bitmap).num_bytes));
}

std::int64_t dense_grid_bytes(const QuantGrid& grid, std::int64_t rows, std::int64_t cols) {
  return sections_of(dense_grid_shape(grid, rows, cols)).num_bytes;
}

std::vector<FormatSize> formats_for(const QuantizedWeight& w) {
  check_weight(w);
  return formats_for(w, census_of(w));
}

PackedTensor pack(const QuantizedWeight& w, const PackFormat& format) {
  check_weight(w);
  return pack(w, format, format.kind == PackedKind::kBitmapGrid ? census_of(w) : Census{});
}

PackedTensor pack_smallest(const QuantizedWeight& w) {
  check_weight(w);
  const Census census = census_of(w);
  return pack(w, formats_for(w, census).front().format, census);
}

PackedShape packed_table_shape(std::int64_t rows, std::int64_t cols, int bits) {
  return dense_grid_shape(table_grid(cols, bits), rows, cols);
}

QuantizedWeight quantize_table(ConstMatrixView table, int bits, const std::string& name) {
  QuantizedWeight w{table_grid(table.cols, bits), table.rows, table.cols, {}, {}, {}};
  const std::int64_t groups = w.grid.groups_of(table.cols);
  w.codes.resize(static_cast<std::size_t>(table.rows * table.cols));
  w.scales.resize(static_cast<std::size_t>(table.rows * groups));
  if (w.grid.asymmetric) w.zeros.resize(w.scales.size());
  const std::int64_t width = table.cols / groups;
  parallel_for(table.rows, 256, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first * groups; i < last * groups; ++i) {
      const std::int64_t row = i / groups;
      const std::span<const float> values(table.row(row) + i % groups * width,
                                          static_cast<std::size_t>(width));
      quantize_group(values, w, i, row * table.cols + i % groups * width, name);
    }
  });
  return w;
}

double nonzero_share(const PackedTensor& packed) {
  if (packed.kind() == PackedKind::kBitmapGrid) return packed.density();
  return static_cast<double>(num_nonzero(unpack_quantized(packed))) /
         static_cast<double>(packed.rows() * packed.cols());
}

void unpack_row(const PackedTensor& packed, std::int64_t row, std::span<float> values) {
  expect(is_grid(packed.kind()) && row >= 0 && row < packed.rows() && std::ssize(values) == packed.cols(),
         "unpack_row: a row of a grid");
  const sparse_kernels::Weights view = kernel_view(packed);
  const std::int64_t panel = row / kPanelRows;
  const auto r = static_cast<int>(row % kPanelRows);
  GridCodes codes = GridCodes::of(view, panel);
  float scale = 0.0f;
  int zero = 0;
  for (std::int64_t s = 0; s < packed.shape().num_quads(); ++s) {
    if (s % kChunkSteps == 0) {
      const std::int64_t group = view.row_groups ? 0 : s / kChunkSteps / view.group_chunks;
      scale = f16_to_f32(view.scales[(panel * view.groups + group) * kPanelRows + r]);
      zero = zero_point(view, panel, group, r);
    }
    std::uint8_t lanes[64];
    if (view.masks == nullptr) {  // the row's own codes
      for (int j = 0; j < 4; ++j) {
        lanes[4 * r + j] = codes.get(static_cast<const std::uint8_t*>(view.values), s, 4 * r + j);
      }
    } else {
      read_step(view, panel, s, codes, lanes);
    }
    for (std::int64_t j = 0; j < std::min<std::int64_t>(4, packed.cols() - 4 * s); ++j) {
      values[static_cast<std::size_t>(4 * s + j)] = static_cast<float>(lanes[4 * r + j] - zero) * scale;
    }
  }
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
      if (4 * s >= w.cols) break;
      const auto columns = static_cast<std::size_t>(std::min<std::int64_t>(4, w.cols - 4 * s));
      for (std::int64_t r = 0; r < rows; ++r)
        std::memcpy(w.codes.data() + (p * kPanelRows + r) * w.cols + 4 * s, lanes + 4 * r, columns);
    }
  });
  return w;
}

}  // namespace swiftprune
