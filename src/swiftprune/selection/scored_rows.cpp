#include "swiftprune/selection/scored_rows.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

RowKernels::Score score_function(const RowKernels& kernels, DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return kernels.score_f32;
    case DType::kF16:
      return kernels.score_f16;
    case DType::kBF16:
      return kernels.score_bf16;
    default:
      expect(false, "scores: weights in F32, F16 or BF16");
      return nullptr;
  }
}

const float* data_or_null(std::span<const float> values) { return values.empty() ? nullptr : values.data(); }

bool has_size(std::span<const float> values, std::int64_t n) {
  return static_cast<std::int64_t>(values.size()) == n;
}

}  // namespace

ScoredRows::ScoredRows(const RowKernels& kernels, const ScoreView& scores)
    : scores_(scores), score_(score_function(kernels, scores.values.dtype)) {
  expect(scores.column.empty() || has_size(scores.column, cols()), "scores: column [I] or empty");
  expect((scores.row.empty() && scores.slope.empty()) ||
             (has_size(scores.row, rows()) && has_size(scores.slope, cols())),
         "scores: row [O] and slope [I], or neither");
  expect(scores.power == 1 || scores.power == 2, "scores: power 1 or 2");
}

std::int64_t ScoredRows::buffer_size() const { return round_up(cols(), kKeyBlock) + kKeySlack; }

KeyRow ScoredRows::load(std::int64_t r, float* buffer) {
  const float row = scores_.row.empty() ? 0.0f : scores_.row[static_cast<std::size_t>(r)];
  KeyRow keys{buffer, cols(), round_up(cols(), kKeyBlock), 0.0f};
  keys.sum = score_(scores_.values.row(r), keys.n, data_or_null(scores_.column), row,
                    data_or_null(scores_.slope), buffer);
  if (std::isfinite(keys.sum)) return keys;
  const float* bad = std::find_if(buffer, buffer + keys.n, [](float key) { return !std::isfinite(key); });
  if (bad == buffer + keys.n) return keys;  // finite keys whose sum overflows
  const std::lock_guard lock(mutex_);
  if (bad_row_ < 0 || r < bad_row_) {
    bad_row_ = r;
    bad_column_ = bad - buffer;
  }
  std::fill(buffer, buffer + keys.n, 0.0f);
  keys.sum = 0.0f;
  return keys;
}

void ScoredRows::check_finite(std::string_view tensor) const {
  if (bad_row_ < 0) return;
  ScoreView weights = scores_;
  weights.column = weights.row = weights.slope = {};
  const float weight = score_key(weights, bad_row_, bad_column_);
  if (!std::isfinite(weight)) {
    bad_input(
        "{}: found a weight that is {} at row {}, column {}, expected finite weights; is the file damaged?",
        tensor, weight, bad_row_, bad_column_);
  }
  bad_input("{}: found the score {} at row {}, column {} (weight of size {}), expected a finite score",
            tensor, score_key(scores_, bad_row_, bad_column_), bad_row_, bad_column_, weight);
}

}  // namespace swiftprune
