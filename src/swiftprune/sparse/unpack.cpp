#include <bit>
#include <cmath>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/sparse/pack.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace swiftprune {
namespace {

// Where the elements of a panel go: row-major, without padding.
struct BitsTarget {
  const PackedTensor& packed;
  std::vector<std::uint16_t>& bits;

  void put(std::int64_t row, std::int64_t col, std::uint16_t value) const {
    if (row >= packed.rows() || col >= packed.cols()) return;
    bits[static_cast<std::size_t>(row * packed.cols() + col)] = value;
  }
  void put(std::int64_t row, std::int64_t col, std::int8_t value) const {
    if (row >= packed.rows()) return;
    const float weight = static_cast<float>(value) * packed.scales()[row];
    put(row, col, packed.shape().dtype == DType::kBF16 ? f32_to_bf16(weight) : f32_to_f16(weight));
  }
  void put(std::int64_t row, std::int64_t col, E4M3 value) const {
    if (row >= packed.rows()) return;
    const float weight = e4m3_to_f32(value) * packed.scales()[row];
    put(row, col, packed.shape().dtype == DType::kBF16 ? f32_to_bf16(weight) : f32_to_f16(weight));
  }
};

struct FloatTarget {
  const PackedTensor& packed;
  MatrixView weight;

  void put(std::int64_t row, std::int64_t col, std::uint16_t value) const {
    if (row >= packed.rows() || col >= packed.cols()) return;
    weight.at(row, col) = packed.shape().dtype == DType::kBF16 ? bf16_to_f32(value) : f16_to_f32(value);
  }
  void put(std::int64_t row, std::int64_t col, std::int8_t value) const {
    if (row >= packed.rows() || col >= packed.cols()) return;
    weight.at(row, col) = static_cast<float>(value) * packed.scales()[row];
  }
  void put(std::int64_t row, std::int64_t col, E4M3 value) const {
    if (row >= packed.rows() || col >= packed.cols()) return;
    weight.at(row, col) = e4m3_to_f32(value) * packed.scales()[row];
  }
};

template <class Value, int kWidth, class Target>
void unpack_dense(const Target& target, std::int64_t p) {
  const std::int64_t steps = ceil_div(target.packed.cols(), kWidth);
  const auto* values = static_cast<const Value*>(target.packed.values()) + p * steps * kPanelRows * kWidth;
  for (std::int64_t i = 0; i < steps * kPanelRows * kWidth; ++i) {
    const std::int64_t step = i / (kPanelRows * kWidth);
    target.put(p * kPanelRows + i / kWidth % kPanelRows, step * kWidth + i % kWidth, values[i]);
  }
}

template <class Value, class Word, int kWidth, class Target>
void unpack_bitmap(const Target& target, std::int64_t p) {
  const std::int64_t steps = ceil_div(target.packed.cols(), kWidth);
  const auto* masks = static_cast<const Word*>(target.packed.masks()) + p * steps;
  const auto* value = static_cast<const Value*>(target.packed.values()) + target.packed.offsets()[p];
  for (std::int64_t s = 0; s < steps; ++s) {
    for (Word mask = masks[s]; mask != 0; mask &= mask - 1) {
      const int lane = std::countr_zero(mask);
      target.put(p * kPanelRows + lane / kWidth, s * kWidth + lane % kWidth, *value++);
    }
  }
}

template <class Target>
void unpack_nm(const Target& target, std::int64_t p) {
  const PackedShape& shape = target.packed.shape();
  const std::int64_t used = shape.cols / shape.group_m * shape.group_n;
  const auto* values = static_cast<const std::uint16_t*>(target.packed.values());
  for (std::int64_t s = 0; s < used; ++s) {
    const std::int64_t slot = p * shape.num_slots() + s;
    for (std::int64_t r = 0; r < kPanelRows; ++r) {
      const std::uint64_t index =
          shape.group_m == 4
              ? (static_cast<const std::uint32_t*>(target.packed.indices())[slot] >> (2 * r)) & 3u
              : (static_cast<const std::uint64_t*>(target.packed.indices())[slot] >> (4 * r)) & 15u;
      target.put(p * kPanelRows + r, s / shape.group_n * shape.group_m + static_cast<std::int64_t>(index),
                 values[(slot & ~std::int64_t{1}) * kPanelRows + 2 * r + (slot & 1)]);
    }
  }
}

template <class Target>
void unpack_blocks(const Target& target, std::int64_t p) {
  const auto* values = static_cast<const std::uint16_t*>(target.packed.values());
  for (std::uint64_t t = target.packed.offsets()[p]; t < target.packed.offsets()[p + 1]; ++t) {
    for (std::int64_t i = 0; i < kPanelRows * kBlockCols; ++i) {
      const std::int64_t col = target.packed.columns()[t] * kBlockCols + i / (2 * kPanelRows) * 2 + i % 2;
      target.put(p * kPanelRows + i / 2 % kPanelRows, col,
                 values[static_cast<std::int64_t>(t) * kPanelRows * kBlockCols + i]);
    }
  }
}

template <class Target>
void unpack_to(const Target& target) {
  const PackedTensor& packed = target.packed;
  parallel_for(packed.shape().num_panels(), 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t p = first; p < last; ++p) {
      switch (packed.kind()) {
        case PackedKind::kDense16:
          unpack_dense<std::uint16_t, 2>(target, p);
          break;
        case PackedKind::kDenseInt8:
          unpack_dense<std::int8_t, 4>(target, p);
          break;
        case PackedKind::kBitmap16:
          unpack_bitmap<std::uint16_t, std::uint32_t, 2>(target, p);
          break;
        case PackedKind::kBitmapInt8:
          unpack_bitmap<std::int8_t, std::uint64_t, 4>(target, p);
          break;
        case PackedKind::kDenseFp8:
          unpack_dense<E4M3, 4>(target, p);
          break;
        case PackedKind::kBitmapFp8:
          unpack_bitmap<E4M3, std::uint64_t, 4>(target, p);
          break;
        case PackedKind::kNm16:
          unpack_nm(target, p);
          break;
        case PackedKind::kBlock16:
          unpack_blocks(target, p);
          break;
        case PackedKind::kDenseGrid:
        case PackedKind::kBitmapGrid:
        case PackedKind::kNmGrid:
          expect(false, "unpack: grids have no 16-bit form");
          break;
      }
    }
  });
}

}  // namespace

std::vector<std::uint16_t> unpack(const PackedTensor& packed) {
  std::vector<std::uint16_t> bits(static_cast<std::size_t>(packed.rows() * packed.cols()));
  unpack_to(BitsTarget{packed, bits});
  return bits;
}

Matrix unpack_f32(const PackedTensor& packed) {
  if (is_grid(packed.kind())) return dequantize(unpack_quantized(packed));
  Matrix weight = Matrix::zeros(packed.rows(), packed.cols());
  unpack_to(FloatTarget{packed, weight.view()});
  return weight;
}

}  // namespace swiftprune
