#include "swiftprune/masking/apply_mask.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/selection/exact_selector.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kRowsPerChunk = 64;

// Marks where the pattern is broken, once.
void found_bad(PatternCheck& check, std::int64_t row, std::int64_t column) {
  if (!check.holds) return;
  check.holds = false;
  check.bad_row = row;
  check.bad_column = column;
}

void check_groups(const Mask& kept, const Pattern& pattern, PatternCheck& check) {
  for (std::int64_t r = 0; r < kept.rows(); ++r) {
    for (std::int64_t c = 0; c < kept.cols(); c += pattern.m) {
      std::int64_t count = 0;
      for (std::int64_t i = c; i < std::min(kept.cols(), c + pattern.m); ++i) count += kept.kept(r, i);
      if (count > pattern.n) found_bad(check, r, c);
    }
  }
}

void check_tiles(const Mask& kept, const Pattern& pattern, PatternCheck& check) {
  for (std::int64_t r = 0; r < kept.rows(); r += pattern.block_rows) {
    for (std::int64_t c = 0; c < kept.cols(); c += pattern.block_cols) {
      const std::int64_t rows = std::min(pattern.block_rows, kept.rows() - r);
      const std::int64_t cols = std::min(pattern.block_cols, kept.cols() - c);
      std::int64_t count = 0;
      for (std::int64_t i = 0; i < rows * cols; ++i) count += kept.kept(r + i / cols, c + i % cols);
      if (count > 0 && 2 * count < rows * cols) found_bad(check, r, c);
    }
  }
}

}  // namespace

void apply_mask(const Mask& mask, MutableWeightView weight) {
  expect(mask.rows() == weight.rows && mask.cols() == weight.cols, "apply_mask: shapes agree");
  expect(size_of(weight.dtype) == 4 || size_of(weight.dtype) == 2, "apply_mask: F32, F16 or BF16");
  const RowKernels& kernels = row_kernels({});
  parallel_for(weight.rows, kRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) zero_row(kernels, weight, r, mask.row(r));
  });
}

void apply_mask(const Mask& mask, MatrixView weight) { apply_mask(mask, mutable_weight_view(weight)); }

Mask nonzero_mask(WeightView weight) {
  Mask mask(weight.rows, weight.cols);
  const std::int64_t bytes = size_of(weight.dtype);
  expect(bytes == 4 || bytes == 2, "nonzero_mask: F32, F16 or BF16");
  const std::uint32_t magnitude = bytes == 4 ? 0x7fffffffu : 0x7fffu;
  parallel_for(weight.rows, kRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      const std::byte* p = weight.row(r);
      for (std::int64_t c = 0; c < weight.cols; ++c, p += bytes) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, p, static_cast<std::size_t>(bytes));
        if ((bits & magnitude) != 0) mask.keep(r, c);
      }
    }
  });
  return mask;
}

PatternCheck check_pattern(WeightView weight, const Pattern& pattern) {
  const Mask kept = nonzero_mask(weight);
  PatternCheck check;
  check.num_zeros = weight.numel() - kept.num_kept();
  if (weight.numel() == 0) return check;
  check.sparsity = static_cast<double>(check.num_zeros) / static_cast<double>(weight.numel());
  for (std::int64_t r = 0; r < kept.rows(); ++r) {
    const double kept_share = static_cast<double>(kept.num_kept(r)) / static_cast<double>(kept.cols());
    check.max_row_deviation = std::max(check.max_row_deviation, std::abs(1.0 - kept_share - check.sparsity));
  }
  if (pattern.kind == Pattern::Kind::kNofM) check_groups(kept, pattern, check);
  if (pattern.kind == Pattern::Kind::kBlock) check_tiles(kept, pattern, check);
  return check;
}

}  // namespace swiftprune
