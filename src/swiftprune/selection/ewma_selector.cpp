#include "swiftprune/selection/ewma_selector.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>

#include "swiftprune/core/parallel.h"
#include "swiftprune/selection/exact_selector.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kRowsPerChunk = 16;
constexpr double kMaxMiss = 0.005;  // share by which ties may miss the asked sparsity

// The mean and the deviation do not depend on what is kept, so each weight has its own critical lambda
// z = (L - mean)/dev and is kept when z >= lambda. Without deviation lambda plays no part: z = ±infinity.
void critical_lambdas(const KeyRow& row, int power, double alpha, double beta, float* z) {
  const auto score = [&](std::int64_t j) {
    const double key = double{row.keys[j]};
    return power == 2 ? key * key : key;
  };
  if (row.n == 0) return;
  double mean = score(0);
  double dev = mean / 2.0;
  for (std::int64_t j = 0; j < row.n; ++j) {
    const double excess = score(j) - mean;
    if (dev > 0.0) {
      z[j] = static_cast<float>(excess / dev);
    } else {
      z[j] = excess >= 0.0 ? std::numeric_limits<float>::infinity() : -std::numeric_limits<float>::infinity();
    }
    dev += beta * (std::abs(excess) - dev);
    mean += alpha * excess;
  }
}

std::int64_t count_below(const Matrix& z, float lambda) {
  std::atomic<std::int64_t> total{0};
  parallel_for(z.rows(), kRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    std::int32_t count = 0;
    for (const float *p = z.row(first), *end = z.row(last); p < end; ++p) count += *p < lambda;
    total += count;
  });
  return total;
}

// Floats in their order as integers, for a bisection that ends after 32 halvings.
std::int32_t ordinal(float x) {
  const auto bits = std::bit_cast<std::int32_t>(x);
  return bits >= 0 ? bits : std::numeric_limits<std::int32_t>::min() - bits;
}
float from_ordinal(std::int32_t i) {
  return std::bit_cast<float>(i >= 0 ? i : std::numeric_limits<std::int32_t>::min() - i);
}

// The lambda whose count of pruned weights is nearest to `wanted`.
float find_lambda(const Matrix& z, std::int64_t wanted) {
  std::int64_t low = ordinal(-std::numeric_limits<float>::max());
  std::int64_t high = ordinal(std::numeric_limits<float>::max());
  const auto at = [](std::int64_t i) { return from_ordinal(static_cast<std::int32_t>(i)); };
  while (high - low > 1) {  // count(low) <= wanted <= count(high), as far as they can be reached
    const std::int64_t middle = low + (high - low) / 2;
    const std::int64_t count = count_below(z, at(middle));
    if (count == wanted) return at(middle);
    (count < wanted ? low : high) = middle;
  }
  const std::int64_t miss_low = std::abs(count_below(z, at(low)) - wanted);
  const std::int64_t miss_high = std::abs(count_below(z, at(high)) - wanted);
  return at(miss_low <= miss_high ? low : high);
}

}  // namespace

EwmaSelector::EwmaSelector(const SelectorOptions& options) : options_(options) {
  for (const auto& [flag, value] : {std::pair{"alpha", options.alpha}, std::pair{"beta", options.beta}}) {
    if (!(value > 0.0 && value <= 1.0)) bad_usage("{}: found {}, expected 0 < {} <= 1", flag, value, flag);
  }
  if (options.lambda && !std::isfinite(*options.lambda)) {
    bad_usage("lambda: found {}, expected a finite number", *options.lambda);
  }
}

SelectionReport EwmaSelector::do_select(const ScoreView& scores, const PruneTarget& target, Mask& mask,
                                        const MutableWeightView* pruned) const {
  const Pattern::Kind kind = target.pattern.kind;
  if (kind != Pattern::Kind::kRow && kind != Pattern::Kind::kLayer) {
    bad_usage("{}: the selector ewma cannot give the pattern {}; use an exact selector such as {}",
              target.tensor, format(target.pattern), name_of(kDefaultSelector));
  }
  if (!target.row_counts.empty()) {
    bad_usage("{}: the selector ewma cannot give a count for each row; use an exact selector such as {}",
              target.tensor, name_of(kDefaultSelector));
  }
  const RowKernels& kernels = row_kernels(options_.isa);
  ScoredRows rows(kernels, scores);
  Matrix z(rows.rows(), rows.cols());
  parallel_for(rows.rows(), kRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    Matrix keys(1, rows.buffer_size());
    for (std::int64_t r = first; r < last; ++r) {
      critical_lambdas(rows.load(r, keys.data()), rows.power(), options_.alpha, options_.beta, z.row(r));
    }
  });
  rows.check_finite(target.tensor);

  float lambda = 0.0f;
  if (options_.lambda) {
    lambda = static_cast<float>(*options_.lambda);
  } else if (!z.empty()) {
    const std::int64_t wanted = std::llround(static_cast<double>(z.numel()) * target.sparsity);
    lambda = find_lambda(z, wanted);
    const double numel = static_cast<double>(z.numel());
    const double reached = static_cast<double>(count_below(z, lambda)) / numel;
    const double asked = static_cast<double>(wanted) / numel;
    if (std::abs(reached - asked) > std::max(kMaxMiss, 1.0 / numel)) {
      bad_input(
          "{}: no lambda of the selector ewma reaches the sparsity {:.4f}, the nearest is {:.4f} with "
          "lambda {}; use an exact selector such as {}",
          target.tensor, asked, reached, lambda, name_of(kDefaultSelector));
    }
  }
  parallel_for(rows.rows(), kRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      for (std::int64_t c = 0; c < z.cols(); ++c) {
        if (z.at(r, c) >= lambda) mask.keep(r, c);
      }
      if (pruned != nullptr) zero_row(kernels, *pruned, r, mask.row(r));
    }
  });
  SelectionReport report;
  report.lambda = lambda;
  return report;
}

}  // namespace swiftprune
