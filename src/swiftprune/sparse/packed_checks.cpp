#include "swiftprune/sparse/packed_checks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

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

}  // namespace

void check_packed(const PackedTensor& tensor, const PackedSections& sections, std::string_view name) {
  const Checked c{tensor, name};
  const PackedShape& shape = tensor.shape();
  const std::int64_t panels = shape.num_panels();
  const bool bytes_each = is_8bit(shape.kind);
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
  }
}

}  // namespace swiftprune
