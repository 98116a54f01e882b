#include "swiftprune/selection/sort_selector.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "swiftprune/core/parallel.h"
#include "swiftprune/selection/exact_selector.h"

namespace swiftprune {
namespace {

// Clears the mask bits of the `count` lowest of keys[first, last); bit positions are those of the keys.
void prune_lowest(std::span<const float> keys, std::int64_t count, std::vector<std::int64_t>& order,
                  const auto& prune) {
  order.resize(keys.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return keys[static_cast<std::size_t>(a)] < keys[static_cast<std::size_t>(b)];
  });
  for (std::int64_t k = 0; k < count; ++k) prune(order[static_cast<std::size_t>(k)]);
}

void sort_row(std::span<const float> keys, std::int64_t r, const Pattern& pattern, std::int64_t count,
              Mask& mask) {
  std::vector<std::int64_t> order;
  if (pattern.kind == Pattern::Kind::kRow) {
    prune_lowest(keys, count, order, [&](std::int64_t c) { mask.prune(r, c); });
    return;
  }
  for (std::int64_t first = 0; first < std::ssize(keys); first += pattern.m) {
    prune_lowest(keys.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(pattern.m)),
                 pattern.m - pattern.n, order, [&](std::int64_t c) { mask.prune(r, first + c); });
  }
}

}  // namespace

SelectionReport SortSelector::do_select(const ScoreView& scores, const PruneTarget& target, Mask& mask,
                                        const MutableWeightView* pruned) const {
  const RowKernels& kernels = baseline_row_kernels();
  const std::int64_t num_rows = scores.values.rows;
  const std::int64_t num_cols = scores.values.cols;
  const Pattern& pattern = target.pattern;
  ScoredRows rows(kernels, scores);
  if (pattern.kind == Pattern::Kind::kBlock) {
    select_blocks(rows, target, mask);
  } else {
    Matrix keys(num_rows, num_cols);
    for (std::int64_t r = 0; r < num_rows; ++r) {
      for (std::int64_t c = 0; c < num_cols; ++c) mask.keep(r, c);
    }
    parallel_for(num_rows, 16, [&](std::int64_t first, std::int64_t last) {
      Matrix buffer(1, rows.buffer_size());
      for (std::int64_t r = first; r < last; ++r) {
        const KeyRow row = rows.load(r, buffer.data());
        std::copy(row.keys, row.keys + row.n, keys.row(r));
      }
    });
    rows.check_finite(target.tensor);
    if (pattern.kind == Pattern::Kind::kLayer) {
      std::vector<std::int64_t> order;
      prune_lowest(keys.values(), total_prune_count(target, num_rows, num_cols), order,
                   [&](std::int64_t i) { mask.prune(i / num_cols, i % num_cols); });
    } else {
      const std::vector<std::int64_t> counts = row_prune_counts(target, num_rows, num_cols);
      parallel_for(num_rows, 16, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t r = first; r < last; ++r) {
          sort_row(keys.view().row_span(r), r, pattern, counts[static_cast<std::size_t>(r)], mask);
        }
      });
    }
  }
  rows.check_finite(target.tensor);
  for (std::int64_t r = 0; pruned != nullptr && r < num_rows; ++r) {
    zero_row(kernels, *pruned, r, mask.row(r));
  }
  return {};
}

}  // namespace swiftprune
