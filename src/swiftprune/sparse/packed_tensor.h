// A linear layer's weight [O, I] in a packed form: the same bytes on disk, mapped and multiplied with.
// Weights are kept in panels of 16 output rows, and inside a panel in the order the kernels consume them: for
// every pair of columns, the 16 rows' pairs side by side (8 bits: quads). One copy so serves a single token
// (a sweep of each panel), a batch (panels as the right operand of a small product) and 16-row tile
// instructions. Byte by byte: docs/formats.md, "Packed models".
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/tensor/dtype.h"
#include "swiftprune/tensor/quantized_weight.h"

namespace swiftprune {

enum class PackedKind : std::uint16_t {
  kDense16 = 0,     // every weight, BF16 or F16
  kDenseInt8 = 1,   // every weight, int8 with one scale an output row
  kBitmap16 = 2,    // one bit a weight, and the weights whose bits are not all zero
  kBitmapInt8 = 3,  // the same with int8 values
  kNm16 = 4,        // N of every M consecutive inputs, with their indices inside the group
  kBlock16 = 5,     // 16x16 tiles; tiles of zeros only are left out
  kDenseFp8 = 6,    // every weight, E4M3 with one scale an output row
  kBitmapFp8 = 7,   // one bit a weight, and E4M3 values
  // Codes of 8, 4 or 3 bits on a grid with scales for groups of inputs (tensor/quantized_weight.h).
  kDenseGrid = 8,   // every code
  kBitmapGrid = 9,  // one bit a weight, and the codes that are not their group's zero point
  kNmGrid = 10,     // one bit a weight, and N codes of every 4 consecutive inputs
};
inline constexpr int kNumPackedKinds = 11;
std::string_view name_of(PackedKind kind);  // "bitmap16"
bool is_int8(PackedKind kind);
bool is_fp8(PackedKind kind);
inline bool is_8bit(PackedKind kind) { return is_int8(kind) || is_fp8(kind); }
bool is_grid(PackedKind kind);

inline constexpr std::int64_t kPanelRows = 16;       // output rows of a panel
inline constexpr std::int64_t kBlockCols = 16;       // columns of a block16 tile
inline constexpr std::int64_t kMaxInt8Cols = 65536;  // keeps the int8 kernels' 32-bit sums exact
inline constexpr std::int64_t kChunkCols = 32;       // grid kinds: columns of a chunk, the smallest group
inline constexpr std::int64_t kChunkSteps = kChunkCols / 4;
inline constexpr int kNmGridColumns = 4;  // nm_grid: M

// What the header says; all sizes below follow from it.
struct PackedShape {
  PackedKind kind = PackedKind::kDense16;
  DType dtype = DType::kBF16;   // of the weights before packing, and after unpacking: BF16, F16; grids F32
  int group_n = 0;              // nm kinds: weights kept of every group_m
  int group_m = 0;              // nm16: 4, 8 or 16; nm_grid: 4
  std::int64_t rows = 0;        // O
  std::int64_t cols = 0;        // I
  std::int64_t num_values = 0;  // stored: rows·cols, set bits, 256·tiles or rows·cols·N/M
  QuantGrid grid = {};          // grid kinds
  std::int64_t code_bytes = 0;  // bitmap_grid: of all panels' codes

  std::int64_t num_panels() const { return ceil_div(rows, kPanelRows); }
  std::int64_t num_pairs() const { return ceil_div(cols, 2); }            // 16-bit kinds
  std::int64_t num_quads() const { return ceil_div(cols, 4); }            // 8-bit kinds
  std::int64_t num_chunks() const { return ceil_div(cols, kChunkCols); }  // grid kinds, of a panel
  std::int64_t num_groups() const { return grid.groups_of(cols); }        // of a row
  // nm16: groups of a row times N, rounded up to pairs; each slot holds 16 rows' values.
  std::int64_t num_slots() const { return group_m == 0 ? 0 : round_up(cols / group_m * group_n, 2); }
};

// Offsets in bytes from the start of the packed tensor, multiples of 64; absent sections are 0.
struct PackedSections {
  std::int64_t scales = 0;   // f32 [panels·16]                  8-bit kinds; grids f16 [panels, groups, 16]
  std::int64_t zeros = 0;    // u8 [panels, groups, 16], of 4 and 3 bits two rows a byte   asymmetric grids
  std::int64_t offsets = 0;  // u64 [panels + 1]                 bitmap (values), block (tiles)
                             //   bitmap_grid: bytes of codes; of 3 bits [2·panels + 1], see docs/formats.md
  std::int64_t masks = 0;    // u32 [panels, pairs] or u64 [panels, quads]; bit lane·(2|4) + column: bitmaps,
                             //   nm_grid; grids: quads of whole chunks
  std::int64_t indices = 0;  // u32 or u64 [panels, slots]       nm16
  std::int64_t columns = 0;  // u32 [tiles]                      block16
  std::int64_t values = 0;
  std::int64_t num_bytes = 0;
};
PackedSections sections_of(const PackedShape& shape);
// Numbers of the section `offsets`, and of a bitmap grid's bytes per panel: one plane of codes, or two.
std::int64_t num_offsets(const PackedShape& shape);
// Whether the bytes begin as those of a packed tensor of a grid kind; nothing else of them is looked at.
bool starts_as_grid(std::span<const std::byte> bytes);
inline constexpr std::int64_t kPackedHeaderBytes = 64;
// Of the packed tensor that begins with these bytes, as its header has it; 0: they begin as something else.
std::int64_t packed_size(std::span<const std::byte> header);
// "bitmap16", "2:4", "bitmap int4 g64"
std::string describe(const PackedShape& shape);

class PackedTensor {
 public:
  // Checks every rule of the format, the checksum included, before anything is believed. Throws
  // Error{kBadInput}; `name` is the tensor's name in the message. `bytes` start at a multiple of 64 and stay
  // valid as long as `owner` does.
  static PackedTensor parse(std::span<const std::byte> bytes, std::string_view name,
                            std::shared_ptr<const void> owner);
  // The same of so many bytes that `fill` puts into memory of the tensor's own.
  static PackedTensor read(std::int64_t num_bytes, std::string_view name,
                           const std::function<void(std::span<std::byte>)>& fill);

  const PackedShape& shape() const { return shape_; }
  PackedKind kind() const { return shape_.kind; }
  std::int64_t rows() const { return shape_.rows; }
  std::int64_t cols() const { return shape_.cols; }
  double density() const;  // stored values per weight
  std::span<const std::byte> bytes() const { return bytes_; }

  // Of 8-bit kinds; null in others.
  const float* scales() const { return is_8bit(shape_.kind) ? at<float>(sections_.scales) : nullptr; }
  const std::uint16_t* group_scales() const { return at<std::uint16_t>(sections_.scales); }  // grids
  const std::uint8_t* zeros() const { return at<std::uint8_t>(sections_.zeros); }            // or null
  const std::uint64_t* offsets() const { return at<std::uint64_t>(sections_.offsets); }
  const void* masks() const { return at<std::byte>(sections_.masks); }
  const void* indices() const { return at<std::byte>(sections_.indices); }
  const std::uint32_t* columns() const { return at<std::uint32_t>(sections_.columns); }
  const void* values() const { return at<std::byte>(sections_.values); }

 private:
  friend class PackedBuilder;
  PackedTensor() = default;
  template <class T>
  const T* at(std::int64_t offset) const {
    return offset == 0 ? nullptr : reinterpret_cast<const T*>(bytes_.data() + offset);
  }
  PackedShape shape_;
  PackedSections sections_;
  std::span<const std::byte> bytes_;
  std::shared_ptr<const void> owner_;
};

// A packed tensor in the making: zeroed memory of the right size, filled section by section (pack.cpp).
class PackedBuilder {
 public:
  explicit PackedBuilder(const PackedShape& shape);
  std::span<float> scales();
  std::uint16_t* group_scales() { return reinterpret_cast<std::uint16_t*>(memory_.get() + sections_.scales); }
  std::uint8_t* zeros() { return reinterpret_cast<std::uint8_t*>(memory_.get() + sections_.zeros); }
  std::span<std::uint64_t> offsets();
  template <class T>
  T* masks() {
    return reinterpret_cast<T*>(memory_.get() + sections_.masks);
  }
  template <class T>
  T* indices() {
    return reinterpret_cast<T*>(memory_.get() + sections_.indices);
  }
  std::uint32_t* columns() { return reinterpret_cast<std::uint32_t*>(memory_.get() + sections_.columns); }
  template <class T>
  T* values() {
    return reinterpret_cast<T*>(memory_.get() + sections_.values);
  }
  PackedTensor finish() &&;  // writes the header and its checksum

 private:
  PackedShape shape_;
  PackedSections sections_;
  std::shared_ptr<std::byte[]> memory_;
};

}  // namespace swiftprune
