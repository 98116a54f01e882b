#include "swiftprune/refinement/swaps.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/refinement/row_loops.h"
#include "swiftprune/selection/exact_selector.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kSwapsRowsPerChunk = 8;
constexpr std::size_t kShortlist = 32;
// A gain below this share of the terms it is the difference of is rounding, not a gain.
constexpr float kMinGain = 1e-5f;

class SwapsGram final : public PreparedGram {
 public:
  std::vector<float> diagonal;  // [I]
};

struct Swap {
  float change = 0.0f;  // ΔE, < 0 for a gain
  std::int64_t prune = -1;
  std::int64_t restore = -1;
};

// One row on its way from mask to better mask.
class RowSwaps {
 public:
  RowSwaps(const Matrix& gram, const std::vector<float>& diagonal)
      : gram_(gram),
        diagonal_(diagonal),
        sign_(1, gram.cols()),
        prune_cost_(1, gram.cols()),
        restore_cost_(1, gram.cols()),
        indices_(static_cast<std::size_t>(gram.cols())) {}

  // w [I]; c [I] = G·(pruned part), kept up to date; the mask's row r changes.
  void run(const float* w, float* c, int max_swaps, const Pattern& pattern, Mask& mask, std::int64_t r) {
    const std::int64_t n = gram_.cols();
    for (std::int64_t j = 0; j < n; ++j) sign_.data()[j] = mask.kept(r, j) ? 1.0f : -1.0f;
    for (int swap = 0; swap < max_swaps; ++swap) {
      loops_.swap_costs(w, c, diagonal_.data(), sign_.data(), n, prune_cost_.data(), restore_cost_.data());
      const Swap best = pattern.kind == Pattern::Kind::kNofM ? best_in_groups(w, pattern.m) : best_in_row(w);
      if (best.prune < 0) return;
      loops_.add_scaled(w[best.prune], gram_.row(best.prune), c, n);
      loops_.add_scaled(-w[best.restore], gram_.row(best.restore), c, n);
      sign_.data()[best.prune] = -1.0f;
      sign_.data()[best.restore] = 1.0f;
      mask.prune(r, best.prune);
      mask.keep(r, best.restore);
    }
  }

 private:
  void consider(const float* w, std::int64_t p, std::int64_t q, Swap& best) const {
    const float prune = prune_cost_.data()[p];
    const float restore = restore_cost_.data()[q];
    const float change = prune + restore - 2.0f * w[p] * w[q] * gram_.at(p, q);
    if (!(change < best.change)) return;
    const float size = w[p] * w[p] * diagonal_[static_cast<std::size_t>(p)] +
                       w[q] * w[q] * diagonal_[static_cast<std::size_t>(q)] + std::abs(prune) +
                       std::abs(restore);
    if (change < -kMinGain * size) best = {change, p, q};
  }

  Swap best_in_groups(const float* w, std::int64_t m) const {
    Swap best;
    for (std::int64_t first = 0; first < gram_.cols(); first += m) {
      for (std::int64_t p = first; p < first + m; ++p) {
        if (sign_.data()[p] < 0.0f) continue;
        for (std::int64_t q = first; q < first + m; ++q) {
          if (sign_.data()[q] < 0.0f) consider(w, p, q, best);
        }
      }
    }
    return best;
  }

  // The cheapest of one side, cheapest first, ties to the lower index.
  std::size_t shortlist(const float* costs, std::array<std::int32_t, kShortlist>& list) {
    std::array<float, 64> minima;
    loops_.lane_minima(costs, gram_.cols(), minima.data());
    // 32 lanes have a value up to the 32nd of their minima, so the 32 lowest values are not above it.
    std::nth_element(minima.begin(), minima.begin() + kShortlist - 1, minima.end());
    const float bound = std::min(minima[kShortlist - 1], std::numeric_limits<float>::max());
    const auto found = static_cast<std::size_t>(loops_.at_most(costs, gram_.cols(), bound, indices_.data()));
    const std::size_t count = std::min(found, kShortlist);
    const auto end = indices_.begin() + static_cast<std::ptrdiff_t>(found);
    std::partial_sort(indices_.begin(), indices_.begin() + static_cast<std::ptrdiff_t>(count), end,
                      [&](std::int32_t a, std::int32_t b) {
                        return costs[a] < costs[b] || (costs[a] == costs[b] && a < b);
                      });
    std::copy_n(indices_.begin(), count, list.begin());
    return count;
  }

  Swap best_in_row(const float* w) {
    std::array<std::int32_t, kShortlist> prune;
    std::array<std::int32_t, kShortlist> restore;
    const std::size_t num_prune = shortlist(prune_cost_.data(), prune);
    const std::size_t num_restore = shortlist(restore_cost_.data(), restore);
    Swap best;
    for (std::size_t p = 0; p < num_prune; ++p) {
      for (std::size_t q = 0; q < num_restore; ++q) consider(w, prune[p], restore[q], best);
    }
    return best;
  }

  const Matrix& gram_;
  const std::vector<float>& diagonal_;
  const RowLoops& loops_ = row_loops();
  Matrix sign_;  // 1 kept, -1 pruned
  Matrix prune_cost_;
  Matrix restore_cost_;
  std::vector<std::int32_t> indices_;
};

class SwapsRefiner final : public Refiner {
 public:
  explicit SwapsRefiner(const SwapsOptions& options) : Refiner(facts_of(options)), options_(options) {}

 private:
  std::unique_ptr<PreparedGram> do_prepare(const LayerStats& stats, const Backend&, std::string_view,
                                           const RefineExtras&) const override {
    auto prepared = std::make_unique<SwapsGram>();
    for (std::int64_t j = 0; j < stats.gram->rows(); ++j) prepared->diagonal.push_back(stats.gram->at(j, j));
    return prepared;
  }

  Refinement do_refine(const RefineTask& task, const PreparedGram& prepared,
                       const Backend& backend) const override {
    const auto& gram = static_cast<const SwapsGram&>(prepared);
    const RowLoops& loops = row_loops();
    const RowKernels& kernels = row_kernels({});
    const std::int64_t rows = task.weight.rows;
    const std::int64_t cols = task.weight.cols;
    Refinement result;
    result.mask = *task.mask;
    result.weight = Matrix(rows, cols);
    Matrix pruned(rows, cols);
    parallel_for(rows, kSwapsRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) {
        std::copy_n(task.weight.row(r), cols, result.weight.row(r));
        zero_row(kernels, mutable_weight_view(result.weight.view()), r, task.mask->row(r));
        std::copy_n(task.weight.row(r), cols, pruned.row(r));
        loops.add_scaled(-1.0f, result.weight.row(r), pruned.row(r), cols);
      }
    });
    Matrix c(rows, cols);
    backend.matmul(pruned.view(), gram.gram->view(), 1.0f, 0.0f, c.view());
    parallel_for(rows, kSwapsRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
      check_interrupt();
      RowSwaps swaps(*gram.gram, gram.diagonal);
      for (std::int64_t r = first; r < last; ++r) {
        swaps.run(task.weight.row(r), c.row(r), options_.max_swaps, task.target.pattern, result.mask, r);
        std::copy_n(task.weight.row(r), cols, result.weight.row(r));
        zero_row(kernels, mutable_weight_view(result.weight.view()), r, result.mask.row(r));
      }
    });
    return result;
  }

  SwapsOptions options_;
};

}  // namespace

std::unique_ptr<Refiner> make_swaps(const SwapsOptions& options) {
  return std::make_unique<SwapsRefiner>(options);
}

}  // namespace swiftprune
