// Finds the threshold of the `count` lowest keys of a row, exactly.
//
// Radix: a histogram of the leading bits names the bin, the keys of the bin are packed and bisected.
// EWMA window: rows of one matrix have much the same ratio r of threshold to mean key. An EWMA over the rows
// before predicts r and its absolute deviation d; one pass counts the keys below mean·(r - 4d) and packs the
// few inside mean·(r ± 4d), a bisection on those gives the exact threshold. A row that misses its window
// falls back to radix, so the result never depends on the prediction (nor on the order of the rows).
#pragma once

#include <cstdint>
#include <vector>

#include "swiftprune/selection/scored_rows.h"

namespace swiftprune {

// Keys below `value` and the first `ties` equal to it are the lowest ones.
struct Threshold {
  float value = 0.0f;
  std::int64_t ties = 0;
};

class ThresholdSearch {
 public:
  enum class Method { kRadix, kEwmaWindow };
  ThresholdSearch(const RowKernels& kernels, Method method, std::int64_t buffer_size);

  // 0 < count < row.n
  Threshold find(const KeyRow& row, std::int64_t count);
  std::int64_t missed_windows() const { return missed_windows_; }

 private:
  Threshold radix(const KeyRow& row, std::int64_t count);
  bool in_window(const KeyRow& row, std::int64_t count, float mean, Threshold& threshold);
  void learn(float ratio, std::int64_t n);

  const RowKernels& kernels_;
  Method method_;
  Matrix inside_;
  std::vector<std::uint32_t> histogram_;
  bool has_prediction_ = false;
  float ratio_ = 0.0f;      // EWMA of threshold / mean
  float deviation_ = 0.0f;  // EWMA of its absolute change
  std::int64_t missed_windows_ = 0;
};

}  // namespace swiftprune
