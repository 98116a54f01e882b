// Compiled without contraction of a * b + c: values here are those that are read back.
#include "swiftprune/export/gguf_compensate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/refinement/refine_spec.h"
#include "swiftprune/refinement/row_loops.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kRowsPerChunk = 8;
constexpr std::int64_t kPanel = kLargestBlock;  // columns compensated at once; behind them one product
constexpr int kSweeps = 4;
constexpr double kDamping = 0.01;  // of the mean diagonal

}  // namespace

// A linear's rows on the way onto the grid.
struct CompensationBasis::Rows {
  const GgmlGrid& grid;
  bool keep_zeros;
  Matrix target;      // [O, I] what the values should be
  Matrix work;        // [O, I] the same, moved by compensation
  MatrixView values;  // [O, I] the caller's; at first its weights, whose zeros stay
  std::vector<BlockScales> scales;
  std::vector<std::int8_t> codes;
  std::vector<std::uint8_t> fixed;  // 1 where a zero stays; empty where none does

  std::int64_t blocks_per_row() const { return values.cols / grid.block; }
  BlockScales& scales_of(std::int64_t row, std::int64_t block) {
    return scales[static_cast<std::size_t>(row * blocks_per_row() + block)];
  }
  std::size_t at(std::int64_t row, std::int64_t column) const {
    return static_cast<std::size_t>(row * values.cols + column);
  }
  bool stays_zero(std::int64_t row, std::int64_t column) const {
    return !fixed.empty() && fixed[at(row, column)] != 0;
  }
};

CompensationBasis::CompensationBasis(const LayerStats& stats, const Backend& backend, std::string_view tensor)
    : backend_(backend),
      residual_(stats.residual),
      inverse_(inverse_factor(*stats.gram, kDamping, backend, tensor)),
      gram_(stats.gram->clone()) {
  const std::int64_t n = gram_.rows();
  if (stats.cross != nullptr) {
    shift_ = Matrix(n, n);
    const auto alpha = static_cast<float>(AlignedAdmmOptions{}.alpha);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        shift_.at(i, j) = alpha * (stats.cross->at(i, j) - gram_.at(i, j));
      }
    }
  }
  const auto damping = static_cast<float>(inverse_.damping * inverse_.unit);
  double total = 0.0;
  for (std::int64_t j = 0; j < n; ++j) {
    if (inverse_.dead[static_cast<std::size_t>(j)]) gram_.at(j, j) = static_cast<float>(inverse_.unit);
    gram_.at(j, j) += damping;
    energies_.push_back(gram_.at(j, j));
    total += double{gram_.at(j, j)};
  }
  const auto scale = static_cast<float>(static_cast<double>(n) / total);
  for (float& energy : energies_) energy *= scale;
}

// The weights that give the dense linear's outputs, as far as they are wanted, on the inputs that this one
// gets: W + (W·shift + β·R)·H⁻¹.
Matrix CompensationBasis::target(ConstMatrixView weight) const {
  Matrix result = copy_of(weight);
  if (shift_.empty()) return result;
  Matrix moved(weight.rows, weight.cols);
  backend_.matmul(weight, shift_.view(), 1.0f, 0.0f, moved.view());
  if (residual_ != nullptr) {
    const auto beta = static_cast<float>(AlignedAdmmOptions{}.beta);
    for (std::int64_t k = 0; k < moved.numel(); ++k) moved.data()[k] += beta * residual_->data()[k];
  }
  Matrix half(weight.rows, weight.cols);
  backend_.matmul(moved.view(), inverse_.factor.view(), 1.0f, 0.0f, half.view());
  backend_.matmul_transposed(half.view(), inverse_.factor.view(), 1.0f, 1.0f, result.view());
  return result;
}

void CompensationBasis::compensate(Rows& rows) const {
  const RowLoops& loops = row_loops();
  const GgmlGrid& grid = rows.grid;
  const std::int64_t cols = rows.values.cols;
  for (std::int64_t first = 0; first < cols; first += kPanel) {
    check_interrupt();
    const std::int64_t size = std::min(kPanel, cols - first);
    Matrix factor(size, size);  // U of the panel
    for (std::int64_t i = 0; i < size; ++i) {
      for (std::int64_t j = 0; j < size; ++j) factor.at(i, j) = inverse_.factor.at(first + j, first + i);
    }
    Matrix errors(rows.values.rows, size);
    parallel_for(rows.values.rows, kRowsPerChunk, [&](std::int64_t begin, std::int64_t end) {
      std::array<float, kLargestBlock> weights;
      for (std::int64_t r = begin; r < end; ++r) {
        float* w = rows.work.row(r) + first;
        for (std::int64_t b = 0; b < size; b += grid.block) {
          for (std::int64_t j = 0; j < grid.block; ++j) {
            const bool zero = rows.stays_zero(r, first + b + j);
            weights[static_cast<std::size_t>(j)] =
                zero ? 0.0f : energies_[static_cast<std::size_t>(first + b + j)];
          }
          BlockScales& scales = rows.scales_of(r, (first + b) / grid.block);
          scales = fit_block(grid, w + b, weights.data(), rows.keep_zeros);
          for (std::int64_t j = b; j < b + grid.block; ++j) {
            const GridLine line = line_of(grid, scales, static_cast<int>((j - b) / grid.part));
            const bool zero = rows.stays_zero(r, first + j);
            const int code = zero ? grid.zero_code() : line.nearest_code(w[j]);
            const float value = line.value(code);
            rows.codes[rows.at(r, first + j)] = static_cast<std::int8_t>(code);
            rows.values.at(r, first + j) = value;
            const float error = (w[j] - value) / factor.at(j, j);
            errors.at(r, j) = error;
            loops.add_scaled(-error, factor.row(j) + j + 1, w + j + 1, size - j - 1);
          }
        }
      }
    });
    const std::int64_t after = cols - first - size;
    if (after == 0) break;
    backend_.matmul_transposed(errors.view(),
                               inverse_.factor.view().row_block(first + size, after).col_block(first, size),
                               -1.0f, 1.0f, rows.work.view().col_block(first + size, after));
  }
}

// Coordinate descent of one row on E = (t - v) H (t - v)ᵀ: codes, then scales, each moved to where E is least.
class CompensationBasis::RowDescent {
 public:
  // slope: (t - v) H, kept in step with the values.
  RowDescent(Rows& rows, const Matrix& gram, std::int64_t row, float* slope)
      : rows_(rows), grid_(rows.grid), gram_(gram), row_(row), slope_(slope), values_(rows.values.row(row)) {}

  void run() {
    for (int sweep = 0; sweep < kSweeps; ++sweep) {
      bool changed = false;
      for (std::int64_t block = 0; block < rows_.blocks_per_row(); ++block) {
        changed |= choose_codes(block);
        if (sweep + 1 < kSweeps) changed |= choose_scales(block);
      }
      if (!changed) break;
    }
  }

 private:
  std::int64_t begin_of(std::int64_t block) const { return block * grid_.block; }
  std::int8_t& code(std::int64_t j) { return rows_.codes[rows_.at(row_, j)]; }

  void set_value(std::int64_t j, float value) {
    if (value == values_[j]) return;
    loops_.add_scaled(values_[j] - value, gram_.row(j), slope_, gram_.cols());
    values_[j] = value;
  }

  bool choose_codes(std::int64_t block) {
    bool changed = false;
    for (int part = 0; part < grid_.parts(); ++part) {
      const GridLine line = line_of(grid_, rows_.scales_of(row_, block), part);
      const std::int64_t first = begin_of(block) + part * grid_.part;
      for (std::int64_t j = first; j < first + grid_.part; ++j) {
        if (rows_.stays_zero(row_, j)) continue;
        const int better = line.nearest_code(values_[j] + slope_[j] / gram_.at(j, j));
        if (better == code(j)) continue;
        code(j) = static_cast<std::int8_t>(better);
        set_value(j, line.value(better));
        changed = true;
      }
    }
    return changed;
  }

  bool choose_scales(std::int64_t block) {
    const BlockScales& scales = rows_.scales_of(row_, block);
    bool changed = false;
    for (int part = 0; grid_.has_scales() && part < grid_.parts(); ++part) {
      const auto p = static_cast<std::size_t>(part);
      const float d = f16_to_f32(scales.d), m = f16_to_f32(scales.m);
      changed |= move(
          block, part, 1, [&](std::int64_t j) { return d * centered(j); },
          [&](BlockScales& next, float by) {
            next.scale[p] = moved(next.scale[p], by, grid_.lowest_scale, grid_.highest_scale);
          });
      if (!grid_.has_offset || rows_.keep_zeros) continue;
      changed |= move(
          block, part, 1, [&](std::int64_t) { return -m; },
          [&](BlockScales& next, float by) { next.min[p] = moved(next.min[p], by, 0, grid_.highest_min); });
    }
    changed |= move(
        block, 0, grid_.parts(),
        [&](std::int64_t j) { return centered(j) * part_number(scales.scale, block, j); },
        [&](BlockScales& next, float by) { next.d = finite_f16(f16_to_f32(next.d) + by); });
    if (grid_.has_offset && !rows_.keep_zeros) {
      const float sign = grid_.has_scales() ? -1.0f : 1.0f;
      changed |= move(
          block, 0, grid_.parts(), [&](std::int64_t j) { return sign * part_number(scales.min, block, j); },
          [&](BlockScales& next, float by) { next.m = finite_f16(f16_to_f32(next.m) + by); });
    }
    return changed;
  }

  // The code, counted from zero's where the offset follows the step.
  float centered(std::int64_t j) {
    return static_cast<float>(code(j) - (rows_.keep_zeros ? grid_.zero_code() : 0));
  }
  float part_number(const std::array<std::int8_t, kMostParts>& numbers, std::int64_t block,
                    std::int64_t j) const {
    if (!grid_.has_scales()) return 1.0f;
    return static_cast<float>(numbers[static_cast<std::size_t>((j - begin_of(block)) / grid_.part)]);
  }
  static std::int8_t moved(std::int8_t number, float by, int lowest, int highest) {
    return static_cast<std::int8_t>(std::clamp(std::nearbyint(static_cast<float>(number) + by),
                                               static_cast<float>(lowest), static_cast<float>(highest)));
  }

  // Values of these parts move by `by`·direction: the best `by` is (u·slope) / (u H uᵀ); change() takes it as
  // near as the format can. Kept where E falls.
  template <class Direction, class Change>
  bool move(std::int64_t block, int part, int parts, const Direction& direction, const Change& change) {
    const std::int64_t first = begin_of(block) + part * grid_.part;
    const auto count = static_cast<std::int64_t>(parts * grid_.part);
    for (std::int64_t j = 0; j < count; ++j) change_[static_cast<std::size_t>(j)] = direction(first + j);
    const auto [gain, curvature] = slope_and_curvature(first, count);
    if (!(curvature > 0.0f)) return false;
    BlockScales& held = rows_.scales_of(row_, block);
    BlockScales next = held;
    change(next, gain / curvature);
    if (rows_.keep_zeros) tie_offsets(grid_, next);
    if (next.d == held.d && next.m == held.m && next.scale == held.scale && next.min == held.min)
      return false;
    for (std::int64_t j = 0; j < count; ++j) {
      const GridLine line = line_of(grid_, next, part + static_cast<int>(j) / grid_.part);
      change_[static_cast<std::size_t>(j)] = line.value(code(first + j)) - values_[first + j];
    }
    const auto [fall, rise] = slope_and_curvature(first, count);
    if (!(rise < 2.0f * fall)) return false;
    held = next;
    for (std::int64_t j = 0; j < count; ++j) {
      const GridLine line = line_of(grid_, next, part + static_cast<int>(j) / grid_.part);
      set_value(first + j, line.value(code(first + j)));
    }
    return true;
  }

  // c·slope and c H cᵀ of the change at hand.
  std::pair<float, float> slope_and_curvature(std::int64_t first, std::int64_t count) const {
    float gain = loops_.dot(change_.data(), slope_ + first, count), curvature = 0.0f;
    for (std::int64_t j = 0; j < count; ++j) {
      const float c = change_[static_cast<std::size_t>(j)];
      if (c != 0.0f) curvature += c * loops_.dot(change_.data(), gram_.row(first + j) + first, count);
    }
    return {gain, curvature};
  }

  const RowLoops& loops_ = row_loops();
  Rows& rows_;
  const GgmlGrid& grid_;
  const Matrix& gram_;
  std::int64_t row_;
  float* slope_;
  float* values_;
  std::array<float, kLargestBlock> change_{};
};

void CompensationBasis::choose_again(Rows& rows) const {
  Matrix slopes(rows.values.rows, rows.values.cols);
  Matrix& missing = rows.work;
  for (std::int64_t r = 0; r < rows.values.rows; ++r) {
    for (std::int64_t j = 0; j < rows.values.cols; ++j) {
      missing.at(r, j) = rows.target.at(r, j) - rows.values.at(r, j);
    }
  }
  backend_.matmul(missing.view(), gram_.view(), 1.0f, 0.0f, slopes.view());
  parallel_for(rows.values.rows, kRowsPerChunk, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      check_interrupt();
      RowDescent(rows, gram_, r, slopes.row(r)).run();
    }
  });
}

void CompensationBasis::quantize(const GgmlTypeTraits& type, bool keep_zeros, MatrixView weight,
                                 std::span<std::byte> blocks) const {
  const GgmlGrid* grid = find_grid(type.type);
  expect(grid != nullptr && weight.cols % grid->block == 0 && weight.cols == gram_.rows(),
         "CompensationBasis: rows of whole blocks, as wide as the input");
  expect(static_cast<std::int64_t>(blocks.size()) == weight.numel() / type.block_size * type.block_bytes,
         "CompensationBasis: a byte for each byte");
  Rows rows{*grid, keep_zeros, target(weight), {}, weight, {}, {}, {}};
  rows.work = rows.target.clone();
  rows.scales.resize(static_cast<std::size_t>(weight.numel() / grid->block));
  rows.codes.resize(static_cast<std::size_t>(weight.numel()));
  if (keep_zeros) {
    rows.fixed.resize(rows.codes.size());
    for (std::int64_t r = 0; r < weight.rows; ++r) {
      for (std::int64_t j = 0; j < weight.cols; ++j) rows.fixed[rows.at(r, j)] = weight.at(r, j) == 0.0f;
    }
  }
  compensate(rows);
  choose_again(rows);
  for (std::size_t b = 0; b < rows.scales.size(); ++b) {
    pack_block(*grid, rows.scales[b], rows.codes.data() + b * static_cast<std::size_t>(grid->block),
               blocks.data() + b * static_cast<std::size_t>(type.block_bytes));
  }
}

}  // namespace swiftprune
