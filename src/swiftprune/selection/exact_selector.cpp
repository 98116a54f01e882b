#include "swiftprune/selection/exact_selector.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <mutex>
#include <vector>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

// The first row of a chunk has no prediction, so chunks are long; but there are enough of them for the
// threads.
std::int64_t rows_per_chunk(std::int64_t rows) { return std::clamp<std::int64_t>(rows / 16, 16, 128); }

void clear_padding(std::uint64_t* words, std::int64_t n) {
  if (n % 64 != 0) words[n / 64] &= (std::uint64_t{1} << (n % 64)) - 1;
}

}  // namespace

void keep_above(const RowKernels& kernels, const KeyRow& row, const Threshold& threshold,
                std::uint64_t* words) {
  kernels.keep_above(row.keys, row.padded, threshold.value, threshold.ties, words);
  clear_padding(words, row.n);
}

void zero_row(const RowKernels& kernels, MutableWeightView weight, std::int64_t r,
              const std::uint64_t* words) {
  const auto zero = size_of(weight.dtype) == 4 ? kernels.zero_32 : kernels.zero_16;
  zero(weight.row(r), weight.cols, words);
}

SelectionReport ExactSelector::do_select(const ScoreView& scores, const PruneTarget& target, Mask& mask,
                                         const MutableWeightView* pruned) const {
  ScoredRows rows(kernels_, scores);
  SelectionReport report;
  switch (target.pattern.kind) {
    case Pattern::Kind::kRow:
    case Pattern::Kind::kNofM:
      select_rows(rows, target, mask, pruned, report);
      rows.check_finite(target.tensor);
      return report;
    case Pattern::Kind::kLayer:
      select_layer(rows, target, mask);
      break;
    case Pattern::Kind::kBlock:
      select_blocks(rows, target, mask);
      break;
  }
  rows.check_finite(target.tensor);
  if (pruned != nullptr) {
    parallel_for(mask.rows(), rows_per_chunk(mask.rows()), [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) zero_row(kernels_, *pruned, r, mask.row(r));
    });
  }
  return report;
}

void ExactSelector::select_rows(ScoredRows& rows, const PruneTarget& target, Mask& mask,
                                const MutableWeightView* pruned, SelectionReport& report) const {
  const Pattern& pattern = target.pattern;
  const bool n_of_m = pattern.kind == Pattern::Kind::kNofM;
  const std::vector<std::int64_t> counts = row_prune_counts(target, rows.rows(), rows.cols());
  std::atomic<std::int64_t> missed_windows{0};
  parallel_for(rows.rows(), rows_per_chunk(rows.rows()), [&](std::int64_t first, std::int64_t last) {
    Matrix keys(1, rows.buffer_size());
    ThresholdSearch search(kernels_, method_, rows.buffer_size());
    for (std::int64_t r = first; r < last; ++r) {
      const KeyRow row = rows.load(r, keys.data());
      const std::int64_t count = counts[static_cast<std::size_t>(r)];
      std::uint64_t* words = mask.row(r);
      if (n_of_m) {
        kernels_.keep_n_of_m(row.keys, row.padded, static_cast<int>(pattern.n), static_cast<int>(pattern.m),
                             words);
        clear_padding(words, row.n);
      } else if (count == row.n) {
        std::fill_n(words, mask.words_per_row(), std::uint64_t{0});
      } else {
        keep_above(kernels_, row, count == 0 ? Threshold{} : search.find(row, count), words);
      }
      if (pruned != nullptr) zero_row(kernels_, *pruned, r, words);
    }
    missed_windows += search.missed_windows();
  });
  report.missed_windows = missed_windows;
}

// Two passes over the keys: a histogram of their leading bits names the bin of the threshold, then the keys
// of that bin are gathered and ranked. Threads only add counts, so their order does not matter.
void ExactSelector::select_layer(ScoredRows& rows, const PruneTarget& target, Mask& mask) const {
  constexpr int kShift = 19;
  constexpr std::uint32_t kInfinityBits = 0x7f800000u;
  const std::int64_t count = total_prune_count(target, rows.rows(), rows.cols());
  if (count >= rows.rows() * rows.cols()) return;  // the mask starts with nothing kept
  const std::int64_t chunk = rows_per_chunk(rows.rows());
  std::mutex mutex;

  std::vector<std::int64_t> histogram((kInfinityBits >> kShift) + 1);
  parallel_for(rows.rows(), chunk, [&](std::int64_t first, std::int64_t last) {
    Matrix keys(1, rows.buffer_size());
    std::vector<std::uint32_t> local(histogram.size());
    for (std::int64_t r = first; r < last; ++r) {
      const KeyRow row = rows.load(r, keys.data());
      for (std::int64_t j = 0; j < row.n; ++j) ++local[std::bit_cast<std::uint32_t>(row.keys[j]) >> kShift];
    }
    const std::lock_guard lock(mutex);
    for (std::size_t b = 0; b < histogram.size(); ++b) histogram[b] += local[b];
  });
  std::uint32_t bin = 0;
  std::int64_t rank = count;
  for (; histogram[bin] <= rank; ++bin) rank -= histogram[bin];

  const auto low = std::bit_cast<float>(bin << kShift);
  const auto high = std::bit_cast<float>(std::min(kInfinityBits, (bin + 1) << kShift));
  std::vector<float> candidates;
  parallel_for(rows.rows(), chunk, [&](std::int64_t first, std::int64_t last) {
    Matrix keys(1, rows.buffer_size());
    Matrix inside(1, rows.buffer_size());
    std::vector<float> local;
    for (std::int64_t r = first; r < last; ++r) {
      const KeyRow row = rows.load(r, keys.data());
      std::int64_t num_inside = 0;
      kernels_.window(row.keys, row.padded, low, high, inside.data(), &num_inside);
      local.insert(local.end(), inside.data(), inside.data() + num_inside);
    }
    const std::lock_guard lock(mutex);
    candidates.insert(candidates.end(), local.begin(), local.end());
  });
  std::nth_element(candidates.begin(), candidates.begin() + rank, candidates.end());
  const float value = candidates[static_cast<std::size_t>(rank)];
  const std::int64_t ties =
      rank - std::count_if(candidates.begin(), candidates.end(), [&](float key) { return key < value; });

  // Ties are spent in row order: how many rows before each one have used up.
  std::vector<std::int64_t> equal(static_cast<std::size_t>(rows.rows()), 0);
  if (ties > 0) {
    parallel_for(rows.rows(), chunk, [&](std::int64_t first, std::int64_t last) {
      Matrix keys(1, rows.buffer_size());
      for (std::int64_t r = first; r < last; ++r) {
        const KeyRow row = rows.load(r, keys.data());
        equal[static_cast<std::size_t>(r)] = std::count(row.keys, row.keys + row.n, value);
      }
    });
  }
  std::vector<std::int64_t> row_ties(equal.size());
  std::int64_t left = ties;
  for (std::size_t r = 0; r < equal.size(); ++r) {
    row_ties[r] = std::min(left, equal[r]);
    left -= row_ties[r];
  }
  parallel_for(rows.rows(), chunk, [&](std::int64_t first, std::int64_t last) {
    Matrix keys(1, rows.buffer_size());
    for (std::int64_t r = first; r < last; ++r) {
      const KeyRow row = rows.load(r, keys.data());
      keep_above(kernels_, row, {value, row_ties[static_cast<std::size_t>(r)]}, mask.row(r));
    }
  });
}

void select_blocks(ScoredRows& rows, const PruneTarget& target, Mask& mask) {
  const Pattern& pattern = target.pattern;
  const std::int64_t tile_rows = rows.rows() / pattern.block_rows;
  const std::int64_t tile_cols = rows.cols() / pattern.block_cols;
  std::vector<double> sums(static_cast<std::size_t>(tile_rows * tile_cols), 0.0);
  parallel_for(tile_rows, 1, [&](std::int64_t first, std::int64_t last) {
    Matrix keys(1, rows.buffer_size());
    for (std::int64_t r = first * pattern.block_rows; r < last * pattern.block_rows; ++r) {
      const KeyRow row = rows.load(r, keys.data());
      double* tile = sums.data() + r / pattern.block_rows * tile_cols;
      for (std::int64_t j = 0; j < row.n; ++tile) {
        for (const std::int64_t end = j + pattern.block_cols; j < end; ++j) {
          const double key = double{row.keys[j]};
          *tile += rows.power() == 2 ? key * key : key;
        }
      }
    }
  });
  std::vector<std::int64_t> order(sums.size());
  for (std::size_t t = 0; t < order.size(); ++t) order[t] = static_cast<std::int64_t>(t);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return sums[static_cast<std::size_t>(a)] < sums[static_cast<std::size_t>(b)];
  });
  const std::int64_t num_pruned = total_prune_count(target, rows.rows(), rows.cols());
  for (std::size_t k = static_cast<std::size_t>(num_pruned); k < order.size(); ++k) {
    const std::int64_t first_row = order[k] / tile_cols * pattern.block_rows;
    const std::int64_t first_col = order[k] % tile_cols * pattern.block_cols;
    for (std::int64_t r = first_row; r < first_row + pattern.block_rows; ++r) {
      for (std::int64_t c = first_col; c < first_col + pattern.block_cols; ++c) mask.keep(r, c);
    }
  }
}

}  // namespace swiftprune
