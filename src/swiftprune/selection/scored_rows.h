// Turns the rows of a ScoreView into keys, and remembers where a key was not finite.
#pragma once

#include <cstdint>
#include <mutex>
#include <string_view>
#include <vector>

#include "swiftprune/scoring/scores.h"
#include "swiftprune/selection/row_kernels.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

// A row's keys: [padded] floats, +infinity from n on.
struct KeyRow {
  const float* keys = nullptr;
  std::int64_t n = 0;
  std::int64_t padded = 0;
  float sum = 0.0f;
};

class ScoredRows {
 public:
  ScoredRows(const RowKernels& kernels, const ScoreView& scores);

  std::int64_t rows() const { return scores_.values.rows; }
  std::int64_t cols() const { return scores_.values.cols; }
  int power() const { return scores_.power; }
  // Size of a key buffer.
  std::int64_t buffer_size() const;
  // Fills `buffer` with row r. A row with a key that is not finite is recorded; its keys are then all +0.
  KeyRow load(std::int64_t r, float* buffer);
  // Throws Error{kBadInput} for the first key that was not finite, with its position.
  void check_finite(std::string_view tensor) const;

 private:
  const ScoreView& scores_;
  RowKernels::Score score_;
  std::mutex mutex_;
  std::int64_t bad_row_ = -1;
  std::int64_t bad_column_ = -1;
};

}  // namespace swiftprune
