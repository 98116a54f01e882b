#include "swiftprune/refinement/sparsegpt.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/refinement/grid_search.h"
#include "swiftprune/refinement/inverse_factor.h"
#include "swiftprune/refinement/row_loops.h"
#include "swiftprune/selection/exact_selector.h"
#include "swiftprune/selection/selector.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kSparseGptBlock = 128;
constexpr std::int64_t kSparseGptRowsPerChunk = 16;

class SparseGptGram final : public PreparedGram {
 public:
  InverseFactor inverse;
};

// Columns handled at once: whole groups or tiles of the pattern.
std::int64_t block_size(const Pattern& pattern) {
  const std::int64_t unit = pattern.kind == Pattern::Kind::kNofM    ? pattern.m
                            : pattern.kind == Pattern::Kind::kBlock ? pattern.block_cols
                                                                    : 1;
  return std::max(unit, kSparseGptBlock / unit * unit);
}

class SparseGptRefiner final : public Refiner {
 public:
  explicit SparseGptRefiner(const SparseGptOptions& options)
      : Refiner(facts_of(options)), options_(options) {}

 private:
  std::unique_ptr<PreparedGram> do_prepare(const LayerStats& stats, const Backend& backend,
                                           std::string_view tensor, const RefineExtras&) const override;
  Refinement do_refine(const RefineTask& task, const PreparedGram& prepared,
                       const Backend& backend) const override;

  SparseGptOptions options_;
};

std::unique_ptr<PreparedGram> SparseGptRefiner::do_prepare(const LayerStats& stats, const Backend& backend,
                                                           std::string_view tensor,
                                                           const RefineExtras&) const {
  auto prepared = std::make_unique<SparseGptGram>();
  prepared->inverse = inverse_factor(*stats.gram, options_.damping, backend, tensor);
  return prepared;
}

// The masks of the columns [first, first + size) of all rows, by (w / U_jj)². Whatever the pattern, the share
// of the whole matrix is spread evenly over the blocks.
Mask block_mask(ConstMatrixView w, std::span<const float> inverse_diagonal, const PruneTarget& target,
                std::int64_t first, std::int64_t num_inputs) {
  const ScoreView scores{weight_view(w), inverse_diagonal, {}, {}, 2};
  const auto share = [&](std::int64_t total) {  // of `total`, what falls to these columns
    return total * (first + w.cols) / num_inputs - total * first / num_inputs;
  };
  PruneTarget part = target;
  part.rounding = PruneTarget::Rounding::kExactTotal;
  std::vector<std::int64_t> counts;
  if (!target.row_counts.empty()) {
    for (std::int64_t count : target.row_counts) counts.push_back(std::min(w.cols, share(count)));
    part.row_counts = counts;
  } else {
    const std::int64_t total = total_prune_count(target, w.rows, num_inputs);
    if (target.pattern.kind != Pattern::Kind::kBlock) part.pattern = {.kind = Pattern::Kind::kLayer};
    const std::int64_t units = target.pattern.kind == Pattern::Kind::kBlock
                                   ? w.numel() / (target.pattern.block_rows * target.pattern.block_cols)
                                   : w.numel();
    if (share(total) >= units) return Mask(w.rows, w.cols);
    part.sparsity = static_cast<double>(share(total)) / static_cast<double>(units);
  }
  return make_selector(kDefaultSelector)->select(scores, part).mask;
}

// Keeps the n of a row's group with the largest |w|/U_jj, ties pruned from the lower index on.
void choose_group(const float* w, const float* inverse_diagonal, std::int64_t n, std::int64_t m,
                  unsigned char* kept) {
  std::array<float, kMaxGroup> keys;
  for (std::int64_t a = 0; a < m; ++a)
    keys[static_cast<std::size_t>(a)] = std::abs(w[a] * inverse_diagonal[a]);
  for (std::int64_t a = 0; a < m; ++a) {
    std::int64_t before = 0;
    const float key = keys[static_cast<std::size_t>(a)];
    for (std::int64_t b = 0; b < m; ++b) {
      const float other = keys[static_cast<std::size_t>(b)];
      before += other < key || (other == key && b < a);
    }
    kept[a] = before >= m - n;
  }
}

Refinement SparseGptRefiner::do_refine(const RefineTask& task, const PreparedGram& prepared,
                                       const Backend& backend) const {
  const InverseFactor& gram = static_cast<const SparseGptGram&>(prepared).inverse;
  const RowLoops& loops = row_loops();
  const Pattern& pattern = task.target.pattern;
  const bool n_of_m = pattern.kind == Pattern::Kind::kNofM;
  const std::int64_t rows = task.weight.rows;
  const std::int64_t cols = task.weight.cols;
  Refinement result;
  result.mask = Mask(rows, cols);
  result.weight = Matrix(rows, cols);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t j = 0; j < cols; ++j) {
      result.weight.at(r, j) = gram.dead[static_cast<std::size_t>(j)] ? 0.0f : task.weight.at(r, j);
    }
  }
  std::optional<GridWeight> grid;
  if (task.grid) {  // the published code's joint mode: scales from the weights before any changes
    grid.emplace(*task.grid, rows, cols);
    std::copy_n(result.weight.data(), result.weight.numel(), grid->values.data());
    set_range_grids(*grid);
  }
  const std::int64_t step = block_size(pattern);
  for (std::int64_t first = 0; first < cols; first += step) {
    check_interrupt();
    const std::int64_t size = std::min(step, cols - first);
    const MatrixView w = result.weight.view().col_block(first, size);
    Matrix factor(size, size);  // U of the block
    std::vector<float> inverse_diagonal(static_cast<std::size_t>(size));
    for (std::int64_t i = 0; i < size; ++i) {
      for (std::int64_t j = 0; j < size; ++j) factor.at(i, j) = gram.factor.at(first + j, first + i);
      inverse_diagonal[static_cast<std::size_t>(i)] = 1.0f / factor.at(i, i);
    }
    Mask mask;
    if (!n_of_m) mask = block_mask(w, inverse_diagonal, task.target, first, cols);
    Matrix errors(rows, size);
    parallel_for(rows, kSparseGptRowsPerChunk, [&](std::int64_t begin, std::int64_t end) {
      std::vector<unsigned char> kept(static_cast<std::size_t>(size));
      GridColumns columns(grid ? size : 0);
      for (std::int64_t r = begin; r < end; ++r) {
        const std::int64_t group = n_of_m ? pattern.m : size;
        for (std::int64_t g = 0; g < size; g += group) {
          if (n_of_m) {
            choose_group(w.row(r) + g, inverse_diagonal.data() + g, pattern.n, group, kept.data() + g);
          } else {
            for (std::int64_t j = 0; j < size; ++j) kept[static_cast<std::size_t>(j)] = mask.kept(r, j);
          }
          if (!grid) {
            loops.compensate(factor.data(), size, kept.data(), g, g + group, w.row(r), errors.row(r));
            continue;
          }
          for (std::int64_t j = g; j < g + group; ++j)
            columns.set(j, kept[static_cast<std::size_t>(j)] != 0, grid->at(r, grid->group_of(first + j)));
          loops.compensate_rounding(factor.data(), size, kept.data(), columns.scale.data(),
                                    columns.lowest.data(), columns.highest.data(), g, g + group, w.row(r),
                                    errors.row(r));
        }
        for (std::int64_t j = 0; j < size; ++j) {
          if (kept[static_cast<std::size_t>(j)] != 0) result.mask.keep(r, first + j);
        }
      }
    });
    const std::int64_t after = cols - first - size;
    if (after == 0) break;
    backend.matmul_transposed(errors.view(),
                              gram.factor.view().row_block(first + size, after).col_block(first, size), -1.0f,
                              1.0f, result.weight.view().col_block(first + size, after));
  }
  if (grid) {
    grid->values = std::move(result.weight);
    result = on_grid_result(std::move(*grid), result.mask);
  }
  result.report.damping = gram.damping;
  result.report.damping_raised = gram.damping_raised;
  return result;
}

}  // namespace

std::unique_ptr<Refiner> make_sparsegpt(const SparseGptOptions& options) {
  return std::make_unique<SparseGptRefiner>(options);
}

}  // namespace swiftprune
