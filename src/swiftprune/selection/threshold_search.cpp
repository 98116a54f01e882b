#include "swiftprune/selection/threshold_search.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "swiftprune/core/checked_math.h"

namespace swiftprune {
namespace {

constexpr float kWindowDeviations = 4.0f;
constexpr float kRate = 0.1f;             // of both EWMAs
constexpr float kMinDeviation = 2e-4f;    // keeps the window open when rows are alike
constexpr std::int64_t kManyKeys = 2048;  // from here on a finer histogram is worth clearing
constexpr std::uint32_t kInfinityBits = 0x7f800000u;

}  // namespace

ThresholdSearch::ThresholdSearch(const RowKernels& kernels, Method method, std::int64_t buffer_size)
    : kernels_(kernels), method_(method), inside_(1, buffer_size) {}

Threshold ThresholdSearch::find(const KeyRow& row, std::int64_t count) {
  if (method_ == Method::kRadix) return radix(row, count);
  const float mean = row.sum / static_cast<float>(row.n);
  if (!(mean > 0.0f) || !std::isfinite(mean)) return radix(row, count);
  Threshold threshold;
  if (!has_prediction_ || !in_window(row, count, mean, threshold)) {
    missed_windows_ += has_prediction_;
    threshold = radix(row, count);
  }
  learn(threshold.value / mean, row.n);
  return threshold;
}

bool ThresholdSearch::in_window(const KeyRow& row, std::int64_t count, float mean, Threshold& threshold) {
  const float low = std::max(0.0f, mean * (ratio_ - kWindowDeviations * deviation_));
  const float high = mean * (ratio_ + kWindowDeviations * deviation_);
  if (!(low < high) || !std::isfinite(high)) return false;
  std::int64_t num_inside = 0;
  const std::int64_t below = kernels_.window(row.keys, row.padded, low, high, inside_.data(), &num_inside);
  const std::int64_t rank = count - below;
  if (rank < 0 || rank >= num_inside) return false;
  threshold.value =
      kernels_.threshold(inside_.data(), round_up(num_inside, kKeyBlock), rank, low, high, &threshold.ties);
  return true;
}

void ThresholdSearch::learn(float ratio, std::int64_t n) {
  if (!std::isfinite(ratio)) return;
  if (!has_prediction_) {
    has_prediction_ = true;
    ratio_ = ratio;
    // A quantile of n keys varies by about 1/sqrt(n) of itself.
    deviation_ = ratio * std::max(0.02f, 1.0f / std::sqrt(static_cast<float>(n)));
    return;
  }
  const float change = std::abs(ratio - ratio_);
  ratio_ += kRate * (ratio - ratio_);
  deviation_ += kRate * (std::max(change, kMinDeviation) - deviation_);
}

Threshold ThresholdSearch::radix(const KeyRow& row, std::int64_t count) {
  const int shift = row.n >= kManyKeys ? 20 : 23;
  const std::size_t num_bins = (kInfinityBits >> shift) + 1;
  histogram_.assign(4 * num_bins, 0);  // four, so that equal neighbours do not wait for each other
  std::array<std::uint32_t*, 4> part{};
  for (std::size_t p = 0; p < 4; ++p) part[p] = histogram_.data() + p * num_bins;
  const float* keys = row.keys;
  for (std::int64_t j = 0; j < row.padded; j += 4) {  // the padding falls into the last bin
    for (std::size_t p = 0; p < 4; ++p) {
      ++part[p][std::bit_cast<std::uint32_t>(keys[j + static_cast<std::int64_t>(p)]) >> shift];
    }
  }
  std::int64_t below = 0;
  std::uint32_t bin = 0;
  for (;; ++bin) {
    const std::int64_t in_bin = std::int64_t{part[0][bin]} + part[1][bin] + part[2][bin] + part[3][bin];
    if (below + in_bin > count) break;
    below += in_bin;
  }
  const auto low = std::bit_cast<float>(bin << shift);
  const auto high = std::bit_cast<float>(std::min(kInfinityBits, (bin + 1) << shift));
  std::int64_t num_inside = 0;
  kernels_.window(keys, row.padded, low, high, inside_.data(), &num_inside);
  Threshold threshold;
  threshold.value = kernels_.threshold(inside_.data(), round_up(num_inside, kKeyBlock), count - below, low,
                                       high, &threshold.ties);
  return threshold;
}

}  // namespace swiftprune
