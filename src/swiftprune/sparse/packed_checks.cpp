#include "swiftprune/sparse/packed_checks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/sparse/grid_codes.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kPanelsPerChunk = 16;

struct Checked {
  const PackedTensor& tensor;
  std::string_view name;

  const PackedShape& shape() const { return tensor.shape(); }
  // Rows of panel p that the matrix has; the others are padding.
  std::int64_t valid_rows(std::int64_t p) const {
    return std::min(kPanelRows, shape().rows - p * kPanelRows);
  }
};

void check_zero_bytes(const Checked& c, std::int64_t first, std::int64_t last, std::string_view section) {
  const auto bytes =
      c.tensor.bytes().subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
  if (std::any_of(bytes.begin(), bytes.end(), [](std::byte b) { return b != std::byte{0}; })) {
    bad_input("{}: padding after the {} is not zero", c.name, section);
  }
}

// Lanes of one step (16 rows times `width` columns, column fastest) that hold weights.
template <class Word>
Word valid_lanes(const Checked& c, std::int64_t panel, std::int64_t step, std::int64_t width) {
  const std::int64_t cols = std::min(width, c.shape().cols - step * width);
  Word lanes = 0;
  for (std::int64_t r = 0; r < c.valid_rows(panel); ++r) {
    lanes |= ((Word{1} << cols) - 1) << (r * width);
  }
  return lanes;
}

// All columns of a step lie inside.
std::uint64_t valid_rows_mask(const Checked& c, std::int64_t panel) {
  return c.valid_rows(panel) == kPanelRows ? ~std::uint64_t{0}
                                           : (std::uint64_t{1} << (4 * c.valid_rows(panel))) - 1;
}

template <class Word>
void check_bitmap(const Checked& c, std::int64_t width) {
  const std::int64_t panels = c.shape().num_panels();
  const std::int64_t steps = ceil_div(c.shape().cols, width);
  const Word* masks = static_cast<const Word*>(c.tensor.masks());
  std::vector<std::uint64_t> counts(static_cast<std::size_t>(panels));
  parallel_for(panels, kPanelsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t p = first; p < last; ++p) {
      const Word inner = valid_lanes<Word>(c, p, 0, width);
      const Word edge = valid_lanes<Word>(c, p, steps - 1, width);
      std::uint64_t count = 0;
      for (std::int64_t s = 0; s < steps; ++s) {
        const Word mask = masks[p * steps + s];
        if ((mask & ~(s + 1 == steps ? edge : inner)) != 0) {
          bad_input("{}: panel {}: a mask bit is set outside the matrix", c.name, p);
        }
        count += static_cast<std::uint64_t>(std::popcount(mask));
      }
      counts[static_cast<std::size_t>(p)] = count;
    }
  });
  std::uint64_t expected = 0;
  for (std::int64_t p = 0; p <= panels; ++p) {
    if (c.tensor.offsets()[p] != expected) {
      bad_input("{}: offset of panel {}: found {}, the masks before it count {}", c.name, p,
                c.tensor.offsets()[p], expected);
    }
    if (p < panels) expected += counts[static_cast<std::size_t>(p)];
  }
  if (expected != static_cast<std::uint64_t>(c.shape().num_values)) {
    bad_input("{}: found {} values, the masks count {}", c.name, c.shape().num_values, expected);
  }
}

// Padding lanes of `steps` consecutive steps from `first_step` on hold zero.
template <class Value>
void check_padding_lanes(const Checked& c, const Value* values, std::int64_t panel, std::int64_t first_step,
                         std::int64_t steps, std::int64_t width) {
  const bool rows_full = c.valid_rows(panel) == kPanelRows;
  for (std::int64_t s = 0; s < steps; ++s) {
    const std::int64_t cols = std::clamp<std::int64_t>(c.shape().cols - (first_step + s) * width, 0, width);
    if (rows_full && cols == width) continue;
    for (std::int64_t lane = 0; lane < kPanelRows * width; ++lane) {
      const bool inside = lane / width < c.valid_rows(panel) && lane % width < cols;
      if (!inside && values[s * kPanelRows * width + lane] != 0) {
        bad_input("{}: panel {}: a value outside the matrix is not zero", c.name, panel);
      }
    }
  }
}

template <class Value>
void check_dense(const Checked& c, std::int64_t width) {
  const std::int64_t steps = ceil_div(c.shape().cols, width);
  const auto* values = static_cast<const Value*>(c.tensor.values());
  for (std::int64_t p = 0; p < c.shape().num_panels(); ++p) {
    const bool rows_full = c.valid_rows(p) == kPanelRows;
    const std::int64_t first = rows_full ? steps - 1 : 0;  // full panels: only the last step can have padding
    check_padding_lanes(c, values + (p * steps + first) * kPanelRows * width, p, first, steps - first, width);
  }
}

void check_scales(const Checked& c) {
  for (std::int64_t r = 0; r < c.shape().num_panels() * kPanelRows; ++r) {
    const float scale = c.tensor.scales()[r];
    if (!std::isfinite(scale) || scale < 0.0f || (r >= c.shape().rows && scale != 0.0f)) {
      bad_input("{}: scale of row {}: found {}, expected a finite number >= 0 (0 in padding)", c.name, r,
                scale);
    }
  }
}

// No stored value is NaN.
void check_e4m3(const Checked& c, std::int64_t count) {
  const auto* values = static_cast<const std::uint8_t*>(c.tensor.values());
  const auto* end = values + count;
  const auto* found = std::find_if(values, end, [](std::uint8_t v) { return (v & 0x7f) == 0x7f; });
  if (found != end) {
    bad_input("{}: value {}: found {:#04x}, which is no number in E4M3", c.name, found - values, *found);
  }
}

template <class Word>
void check_nm(const Checked& c, int bits) {
  const PackedShape& shape = c.shape();
  const std::int64_t slots = shape.num_slots();
  const std::int64_t used = shape.cols / shape.group_m * shape.group_n;
  const Word* indices = static_cast<const Word*>(c.tensor.indices());
  const auto* values = static_cast<const std::uint16_t*>(c.tensor.values());
  const auto index = [bits](Word word, std::int64_t r) {
    return static_cast<int>((word >> (bits * r)) & ((Word{1} << bits) - 1));
  };
  parallel_for(shape.num_panels(), kPanelsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t p = first; p < last; ++p) {
      for (std::int64_t s = 0; s < slots; ++s) {
        const Word word = indices[p * slots + s];
        const bool continues = s % shape.group_n != 0;
        if (s >= used && word != 0) bad_input("{}: panel {}: padding index is not zero", c.name, p);
        for (std::int64_t r = 0; r < kPanelRows; ++r) {
          const int i = index(word, r);
          if (i >= shape.group_m || (s < used && continues && i <= index(indices[p * slots + s - 1], r))) {
            bad_input("{}: row {}, slot {}: found index {}, expected rising indices below {}", c.name,
                      p * kPanelRows + r, s, i, shape.group_m);
          }
          // Value (slot, row) sits beside its neighbour slot's: [slots / 2][16][2].
          const std::int64_t at = (p * slots + (s & ~std::int64_t{1})) * kPanelRows + 2 * r + (s & 1);
          if ((r >= c.valid_rows(p) || s >= used) && values[at] != 0) {
            bad_input("{}: panel {}: a value outside the matrix is not zero", c.name, p);
          }
        }
      }
    }
  });
}

void check_blocks(const Checked& c) {
  const PackedShape& shape = c.shape();
  const std::int64_t panels = shape.num_panels();
  constexpr std::int64_t kTile = kPanelRows * kBlockCols;
  const auto num_tiles = static_cast<std::uint64_t>(shape.num_values / kTile);
  const std::uint64_t* offsets = c.tensor.offsets();
  if (offsets[0] != 0 || offsets[panels] != num_tiles) {
    bad_input("{}: tile offsets: found {} to {}, expected 0 to {}", c.name, offsets[0], offsets[panels],
              num_tiles);
  }
  const std::int64_t tile_cols = ceil_div(shape.cols, kBlockCols);
  for (std::int64_t p = 0; p < panels; ++p) {
    if (offsets[p] > offsets[p + 1] || offsets[p + 1] > num_tiles) {
      bad_input("{}: offset of panel {}: found {}, expected at least {} and at most {}", c.name, p + 1,
                offsets[p + 1], offsets[p], num_tiles);
    }
    std::int64_t next = 0;
    for (std::uint64_t t = offsets[p]; t < offsets[p + 1]; ++t) {
      const std::int64_t col = c.tensor.columns()[t];
      if (col < next || col >= tile_cols) {
        bad_input("{}: panel {}: found tile column {}, expected {} to {}", c.name, p, col, next,
                  tile_cols - 1);
      }
      next = col + 1;
      check_padding_lanes(c, static_cast<const std::uint16_t*>(c.tensor.values()) + t * kTile, p,
                          col * (kBlockCols / 2), kBlockCols / 2, 2);
    }
  }
}

// -- Grids --

void check_group_scales(const Checked& c) {
  const sparse_kernels::Weights view = kernel_view(c.tensor);
  const int codes = c.shape().grid.num_codes();
  for (std::int64_t p = 0; p < c.shape().num_panels(); ++p) {
    for (std::int64_t i = 0; i < view.groups * kPanelRows; ++i) {
      const std::int64_t group = i / kPanelRows;
      const std::int64_t r = i % kPanelRows;
      const std::uint16_t bits = view.scales[p * view.groups * kPanelRows + i];
      const bool inside = r < c.valid_rows(p);
      if (inside ? bits == 0 || bits >= 0x7c00 : bits != 0) {
        bad_input("{}: row {}, group {}: found scale {}, expected a finite number above 0 (0 in padding)",
                  c.name, p * kPanelRows + r, group, f16_to_f32(bits));
      }
      if (view.zeros == nullptr) continue;
      const int zero = zero_point(view, p, group, static_cast<int>(r));
      if (zero >= (inside ? codes : 1)) {
        bad_input("{}: row {}, group {}: found zero point {}, expected below {} (0 in padding)", c.name,
                  p * kPanelRows + r, group, zero, codes);
      }
    }
  }
}

// Masks stay inside the matrix; with n, every row of it has n bits of four.
void check_grid_masks(const Checked& c, int n) {
  const std::int64_t steps = c.shape().num_chunks() * kChunkSteps;
  const std::int64_t inner_steps = c.shape().num_quads();
  const auto* masks = static_cast<const std::uint64_t*>(c.tensor.masks());
  parallel_for(c.shape().num_panels(), kPanelsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t p = first; p < last; ++p) {
      for (std::int64_t s = 0; s < steps; ++s) {
        const std::uint64_t mask = masks[p * steps + s];
        const std::uint64_t inside = s + 1 < inner_steps ? valid_rows_mask(c, p)
                                     : s < inner_steps   ? valid_lanes<std::uint64_t>(c, p, s, 4)
                                                         : 0;
        if ((mask & ~inside) != 0) {
          bad_input("{}: panel {}: a mask bit is set outside the matrix", c.name, p);
        }
        for (std::int64_t r = 0; n != 0 && s < inner_steps && r < c.valid_rows(p); ++r) {
          const int kept = std::popcount((mask >> (4 * r)) & 15u);
          if (kept != n) {
            bad_input("{}: row {}, columns from {}: found {} of 4 stored, expected {}", c.name,
                      p * kPanelRows + r, 4 * s, kept, n);
          }
        }
      }
    }
  });
}

// Lanes that are no weights hold code 0. dense: 64 codes a step; N:M: 16·N, of which a ragged panel's masks
// fill fewer.
void check_fixed_codes(const Checked& c) {
  const sparse_kernels::Weights view = kernel_view(c.tensor);
  const auto* values = static_cast<const std::uint8_t*>(view.values);
  const bool dense = c.shape().kind == PackedKind::kDenseGrid;
  const std::int64_t per_step = kPanelRows * (dense ? 4 : c.shape().group_n);
  for (std::int64_t p = 0; p < c.shape().num_panels(); ++p) {
    const GridCodes codes = GridCodes::of(view, p);
    for (std::int64_t s = 0; s < view.steps; ++s) {
      const std::int64_t cols = std::clamp<std::int64_t>(c.shape().cols - 4 * s, 0, 4);
      if (c.valid_rows(p) == kPanelRows && cols == 4) continue;
      const std::int64_t stored =
          dense || cols == 0 ? 0 : c.valid_rows(p) * c.shape().group_n;  // N:M: from the first place on
      for (std::int64_t i = 0; i < per_step; ++i) {
        const bool inside = dense ? i / 4 < c.valid_rows(p) && i % 4 < cols : i < stored;
        if (!inside && codes.get(values, s, i) != 0) {
          bad_input("{}: panel {}: a code outside the matrix is not zero", c.name, p);
        }
      }
    }
  }
}

// Offsets follow from the masks, and what the shorter streams leave of a byte is zero.
void check_code_streams(const Checked& c) {
  const PackedShape& shape = c.shape();
  const std::int64_t steps = shape.num_chunks() * kChunkSteps;
  const auto* masks = static_cast<const std::uint64_t*>(c.tensor.masks());
  const auto* values = static_cast<const std::uint8_t*>(c.tensor.values());
  const std::uint64_t* offsets = c.tensor.offsets();
  const int planes = shape.grid.bits == 3 ? 2 : 1;
  std::int64_t expected = 0;
  std::int64_t num_values = 0;
  const auto expect_offset = [&](std::int64_t at) {
    if (offsets[at] != static_cast<std::uint64_t>(expected)) {
      bad_input("{}: offset {}: found {}, the masks before it count {} bytes", c.name, at, offsets[at],
                expected);
    }
  };
  for (std::int64_t p = 0; p < shape.num_panels(); ++p) {
    GridCodes codes = GridCodes::streams(shape.grid.bits, 0, 0);
    for (std::int64_t s = 0; s < steps; ++s) codes.advance(s, std::popcount(masks[p * steps + s]));
    const std::int64_t bytes = *std::ranges::max_element(codes.cursor.at);
    const std::int64_t high_bytes = planes == 2 ? ceil_div(codes.cursor.total, 8) : 0;
    if (bytes + high_bytes > shape.code_bytes - expected) {
      bad_input("{}: found {} bytes of codes, the masks count more", c.name, shape.code_bytes);
    }
    expect_offset(planes * p);
    const std::uint8_t* plane = values + expected;
    const int width = 8 / codes.num_streams();
    for (int k = 0; k < codes.num_streams(); ++k) {
      for (std::int64_t i = codes.cursor.at[k]; i < bytes; ++i) {
        if (((plane[i] >> (k * width)) & ((1 << width) - 1)) != 0) {
          bad_input("{}: panel {}: a code after the last of its stream is not zero", c.name, p);
        }
      }
    }
    expected += bytes;
    if (planes == 2) {
      expect_offset(2 * p + 1);
      if (codes.cursor.total % 8 != 0 && values[expected + high_bytes - 1] >> (codes.cursor.total % 8) != 0) {
        bad_input("{}: panel {}: a code after the last of its stream is not zero", c.name, p);
      }
      expected += high_bytes;
    }
    num_values += codes.cursor.total;
  }
  expect_offset(planes * shape.num_panels());
  if (expected != shape.code_bytes || num_values != shape.num_values) {
    bad_input("{}: found {} codes in {} bytes, the masks count {} in {}", c.name, shape.num_values,
              shape.code_bytes, num_values, expected);
  }
}

void check_grid_kind(const Checked& c, const PackedSections& sections) {
  const PackedShape& shape = c.shape();
  const std::int64_t cells = shape.num_panels() * shape.num_groups();
  const std::int64_t after_zeros = sections.offsets != 0 ? sections.offsets
                                   : sections.masks != 0 ? sections.masks
                                                         : sections.values;
  check_zero_bytes(c, sections.scales + cells * kPanelRows * 2,
                   sections.zeros != 0 ? sections.zeros : after_zeros, "scales");
  if (sections.zeros != 0) {
    check_zero_bytes(c, sections.zeros + cells * (shape.grid.bits == 8 ? kPanelRows : kPanelRows / 2),
                     after_zeros, "zero points");
  }
  check_group_scales(c);
  if (shape.kind == PackedKind::kBitmapGrid) {
    check_zero_bytes(c, sections.offsets + num_offsets(shape) * 8, sections.masks, "offsets");
    check_zero_bytes(c, sections.values + shape.code_bytes, sections.num_bytes, "codes");
  }
  if (sections.masks != 0) {
    check_zero_bytes(c, sections.masks + shape.num_panels() * shape.num_chunks() * kChunkSteps * 8,
                     sections.values, "masks");
    check_grid_masks(c, shape.group_n);
  }
  if (shape.kind == PackedKind::kBitmapGrid) return check_code_streams(c);
  const std::int64_t per_chunk = kPanelRows * (shape.group_n == 0 ? 4 : shape.group_n) * shape.grid.bits;
  check_zero_bytes(c, sections.values + shape.num_panels() * shape.num_chunks() * per_chunk,
                   sections.num_bytes, "codes");
  check_fixed_codes(c);
}

}  // namespace

void check_packed(const PackedTensor& tensor, const PackedSections& sections, std::string_view name) {
  const Checked c{tensor, name};
  const PackedShape& shape = tensor.shape();
  const std::int64_t panels = shape.num_panels();
  const bool bytes_each = is_8bit(shape.kind);
  if (is_grid(shape.kind)) return check_grid_kind(c, sections);
  if (sections.offsets != 0) {
    const std::int64_t next = sections.masks != 0 ? sections.masks : sections.columns;
    check_zero_bytes(c, sections.offsets + (panels + 1) * 8, next, "offsets");
  }
  if (sections.masks != 0) {
    const std::int64_t bytes = bytes_each ? shape.num_quads() * 8 : shape.num_pairs() * 4;
    check_zero_bytes(c, sections.masks + panels * bytes, sections.values, "masks");
    check_zero_bytes(c, sections.values + shape.num_values * (bytes_each ? 1 : 2), sections.num_bytes,
                     "values");
  }
  if (bytes_each) check_scales(c);
  switch (shape.kind) {
    case PackedKind::kDense16:
      check_dense<std::uint16_t>(c, 2);
      break;
    case PackedKind::kDenseInt8:
      check_dense<std::int8_t>(c, 4);
      break;
    case PackedKind::kBitmap16:
      check_bitmap<std::uint32_t>(c, 2);
      break;
    case PackedKind::kBitmapInt8:
      check_bitmap<std::uint64_t>(c, 4);
      break;
    case PackedKind::kDenseFp8:
      check_dense<std::uint8_t>(c, 4);
      check_e4m3(c, panels * shape.num_quads() * 64);
      break;
    case PackedKind::kBitmapFp8:
      check_bitmap<std::uint64_t>(c, 4);
      check_e4m3(c, shape.num_values);
      break;
    case PackedKind::kNm16: {
      const std::int64_t bytes = panels * shape.num_slots() * (shape.group_m == 4 ? 4 : 8);
      check_zero_bytes(c, sections.indices + bytes, sections.values, "indices");
      if (shape.group_m == 4) {
        check_nm<std::uint32_t>(c, 2);
      } else {
        check_nm<std::uint64_t>(c, 4);
      }
      break;
    }
    case PackedKind::kBlock16:
      check_zero_bytes(c, sections.columns + shape.num_values / (kPanelRows * kBlockCols) * 4,
                       sections.values, "tile columns");
      check_blocks(c);
      break;
    case PackedKind::kDenseGrid:
    case PackedKind::kBitmapGrid:
    case PackedKind::kNmGrid:
      break;  // above
  }
}

}  // namespace swiftprune
