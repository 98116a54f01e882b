#include "swiftprune/refinement/admm.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/refinement/row_loops.h"
#include "swiftprune/selection/exact_selector.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kAdmmRowsPerChunk = 32;
// Of subspace iteration: in a step, which begins where the one before ended, and for the part that is returned.
constexpr int kAdmmRounds = 2;
constexpr int kLastRounds = 4;

bool is_row_local(const Pattern& pattern) {
  return pattern.kind == Pattern::Kind::kRow || pattern.kind == Pattern::Kind::kNofM;
}

class AdmmRefiner final : public Refiner {
 public:
  explicit AdmmRefiner(const AdmmOptions& options) : Refiner(facts_of(options)), options_(options) {}

 private:
  std::unique_ptr<PreparedGram> do_prepare(const LayerStats& stats, const Backend& backend,
                                           std::string_view tensor,
                                           const RefineExtras& extras) const override {
    auto prepared = std::make_unique<AdmmGram>(
        prepare_admm(*stats.gram, options_, backend, tensor, stats.compute, extras));
    if (extras.grid) prepare_admm_grid(*prepared, backend, tensor);
    return prepared;
  }

  Refinement do_refine(const RefineTask& task, const PreparedGram& prepared,
                       const Backend& backend) const override {
    const auto& gram = static_cast<const AdmmGram&>(prepared);
    AdmmIteration iteration(task.weight, gram, options_.rho, backend);
    if (task.low_rank > 0) iteration.add_low_rank(task.low_rank, scaled_weights(task.weight, gram));
    run_steps(iteration, task.target, options_.steps, options_.ramp);
    Refinement result;
    if (task.low_rank > 0) result.low_rank = iteration.take_low_rank();
    result.weight = iteration.take_weight();
    result.mask = iteration.mask();
    result.report.damping = gram.damping;
    result.report.damping_raised = gram.damping_raised;
    if (!task.grid) return result;
    Matrix target(task.weight.rows, task.weight.cols);
    backend.matmul(task.weight, gram.grid->quadratic.view(), 1.0f, 0.0f, target.view());
    return put_on_grid(task, result, target.view(), gram, backend);
  }

  AdmmOptions options_;
};

}  // namespace

void prepare_admm_grid(AdmmGram& gram, const Backend& backend, std::string_view tensor) {
  gram.grid = prepare_grid(*gram.gram, gram.norm, kGridDamping, ColumnOrder::kByDiagonal, backend, tensor);
}

Refinement put_on_grid(const RefineTask& task, const Refinement& refined, ConstMatrixView target,
                       const AdmmGram& gram, const Backend& backend) {
  Mask mask = refined.mask;
  GridWeight weight = solve_on_grid(refined.weight.view(), mask, task.target.pattern, target, *gram.grid,
                                    *task.grid, backend);
  Refinement result = on_grid_result(std::move(weight), mask);
  result.report.damping = std::max(refined.report.damping, gram.grid->damping);
  result.report.damping_raised = refined.report.damping_raised + gram.grid->damping_raised;
  return result;
}

double ramp_share(int t, int ramp) {
  if (t + 1 >= ramp) return 1.0;
  const double left = 1.0 - static_cast<double>(t + 1) / static_cast<double>(ramp);
  return 1.0 - left * left * left;
}

void run_steps(AdmmIteration& iteration, const PruneTarget& target, int steps, int ramp) {
  std::vector<std::int64_t> counts(target.row_counts.size());
  for (int t = 0; t < steps; ++t) {
    check_interrupt();
    const double share = t + 1 == steps ? 1.0 : ramp_share(t, ramp);
    PruneTarget part = target;
    part.sparsity *= share;
    for (std::size_t r = 0; r < counts.size(); ++r) {
      counts[r] = static_cast<std::int64_t>(static_cast<double>(target.row_counts[r]) * share);
    }
    part.row_counts = counts;
    iteration.step(part);
  }
}

AdmmGram prepare_admm(const Matrix& gram, const AdmmOptions& options, const Backend& backend,
                      std::string_view tensor, ComputeType compute, const RefineExtras& extras) {
  const std::int64_t n = gram.rows();
  AdmmGram result;
  result.gram = &gram;
  std::vector<double> norm(static_cast<std::size_t>(n));
  result.norm.resize(norm.size());
  const double floor = options.energy_floor > 0.0 ? options.energy_floor * damping_unit(gram.view()) : 0.0;
  for (std::int64_t j = 0; j < n; ++j) {
    const auto i = static_cast<std::size_t>(j);
    norm[i] = std::sqrt(double{gram.at(j, j)} + floor) + 1e-8;
    result.norm[i] = static_cast<float>(norm[i]);
  }
  Matrix normalised(n, n);
  parallel_for(n, 64, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const double scale = 1.0 / norm[static_cast<std::size_t>(i)];
      for (std::int64_t j = 0; j < n; ++j) {
        normalised.at(i, j) =
            static_cast<float>(double{gram.at(i, j)} * scale / norm[static_cast<std::size_t>(j)]);
      }
    }
  });
  Damping damping{.relative = options.damping, .unit = 1.0};
  if (extras.low_rank) {  // without the shift it may need more damping, which both then have
    DampedInverse solved = damped_inverse(normalised.view(), damping, backend, tensor);
    result.metric_inverse = std::move(solved.inverse);
    result.damping_raised = solved.raised;
    damping.relative = solved.damping;
    result.metric = normalised.clone();
    for (std::int64_t j = 0; j < n; ++j)
      result.metric.at(j, j) = static_cast<float>(double{normalised.at(j, j)} + solved.damping);
  }
  damping.shift = options.rho;
  DampedInverse inverse = damped_inverse(normalised.view(), damping, backend, tensor);
  expect(!extras.low_rank || inverse.raised == 0, "prepare_admm: a shift makes no matrix less definite");
  result.inverse = std::move(inverse.inverse);
  result.damping = inverse.damping;
  result.damping_raised += inverse.raised;
  if (compute == ComputeType::kBF16 && backend.has_fast_bf16()) {
    result.rounded = backend.pack(std::as_const(result.inverse).view(), compute);
  }
  return result;
}

AdmmIteration::AdmmIteration(ConstMatrixView weight, const AdmmGram& gram, double rho, const Backend& backend)
    : gram_(gram),
      backend_(backend),
      rho_(static_cast<float>(rho)),
      constant_(weight.rows, weight.cols),
      y_(scaled_weights(weight, gram)),
      t_(weight.rows, weight.cols),
      mask_(weight.rows, weight.cols) {
  std::copy_n(y_.data(), y_.numel(), constant_.data());
  backend_.matmul(y_.view(), gram_.inverse.view(), -rho_, 1.0f, constant_.view());
}

AdmmIteration::AdmmIteration(ConstMatrixView weight, ConstMatrixView right, const AdmmGram& gram, double rho,
                             const Backend& backend)
    : gram_(gram),
      backend_(backend),
      rho_(static_cast<float>(rho)),
      first_(false),
      constant_(weight.rows, weight.cols),
      y_(weight.rows, weight.cols),
      t_(scaled_weights(weight, gram)),
      mask_(weight.rows, weight.cols) {
  expect(right.rows == weight.rows && right.cols == weight.cols, "admm: a right side of the weight's shape");
  backend_.matmul(right, gram_.inverse.view(), 1.0f, 0.0f, constant_.view());
  std::copy_n(constant_.data(), constant_.numel(), y_.data());
}

Matrix scaled_weights(ConstMatrixView weight, const AdmmGram& gram) {
  expect(gram.inverse.rows() == weight.cols, "admm: a Gram of this linear's inputs");
  Matrix scaled(weight.rows, weight.cols);
  const RowLoops& loops = row_loops();
  parallel_for(weight.rows, kAdmmRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      std::copy_n(weight.row(r), weight.cols, scaled.row(r));
      loops.multiply(gram.norm.data(), scaled.row(r), weight.cols);
    }
  });
  return scaled;
}

void AdmmIteration::add_low_rank(std::int64_t rank, Matrix best) {
  expect(gram_.metric.rows() == best.cols() && best.rows() == y_.rows(), "admm: a Gram for low-rank parts");
  Matrix error(best.rows(), best.cols());
  low_rank_.emplace(
      LowRankState{LowRankFit(best.rows(), rank), std::move(best), constant_.clone(), std::move(error)});
}

// Before the product y_ is C + U (in admm's first step Y, with U = 0), after it Y = B + U.
void AdmmIteration::start_error() {
  LowRankState& state = *low_rank_;
  const RowLoops& loops = row_loops();
  parallel_for(y_.rows(), kAdmmRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      std::copy_n(state.best.row(r), y_.cols(), state.error.row(r));
      if (first_) continue;
      loops.add_scaled(1.0f, y_.row(r), state.error.row(r), y_.cols());
      loops.add_scaled(-1.0f, constant_.row(r), state.error.row(r), y_.cols());
    }
  });
}

void AdmmIteration::finish_error() {
  const RowLoops& loops = row_loops();
  parallel_for(y_.rows(), kAdmmRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r)
      loops.add_scaled(-1.0f, y_.row(r), low_rank_->error.row(r), y_.cols());
  });
}

void AdmmIteration::fit_low_rank(int rounds) {
  LowRankState& state = *low_rank_;
  state.fit.update(std::as_const(state.error).view(), gram_.metric.view(), rounds, backend_);
}

void AdmmIteration::move_constant() {
  LowRankState& state = *low_rank_;
  const ConstMatrixView right = state.fit.right();
  Matrix inner = copy_of(right);  // ρ·right·P - right
  backend_.matmul(right, gram_.inverse.view(), rho_, -1.0f, inner.view());
  parallel_for(y_.rows(), kAdmmRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    const RowLoops& loops = row_loops();
    for (std::int64_t r = first; r < last; ++r)
      loops.add_scaled(-1.0f, constant_.row(r), y_.row(r), y_.cols());
  });
  std::copy_n(state.whole.data(), constant_.numel(), constant_.data());
  backend_.matmul(state.fit.left(), inner.view(), 1.0f, 1.0f, constant_.view());
  backend_.add(constant_.view(), y_.view());
}

LowRank AdmmIteration::take_low_rank() {
  LowRankState& state = *low_rank_;
  const RowLoops& loops = row_loops();
  const RowKernels& kernels = row_kernels({});
  parallel_for(t_.rows(), kAdmmRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      std::copy_n(t_.row(r), t_.cols(), state.error.row(r));  // where kept, U = 0 and so T = Z
      zero_row(kernels, mutable_weight_view(state.error.view()), r, mask_.row(r));
      for (float& value : state.error.view().row_span(r)) value = -value;
      loops.add_scaled(1.0f, state.best.row(r), state.error.row(r), t_.cols());
    }
  });
  fit_low_rank(kLastRounds);
  return balanced(state.fit.left(), state.fit.right(), gram_.norm);
}

// Rounded, the iteration still settles where its own steps lead: the errors of 2⁻⁹ are those of 16-bit
// weights.
void AdmmIteration::multiply() {
  if (gram_.rounded == nullptr) {
    backend_.matmul(t_.view(), gram_.inverse.view(), rho_, 1.0f, y_.view());
    return;
  }
  if (product_.empty()) product_ = Matrix(t_.rows(), t_.cols());
  backend_.linear(t_.view(), *gram_.rounded, {}, product_.view());  // P is symmetric
  const RowLoops& loops = row_loops();
  parallel_for(y_.rows(), kAdmmRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) loops.add_scaled(rho_, product_.row(r), y_.row(r), y_.cols());
  });
}

void AdmmIteration::step(const PruneTarget& target) {
  if (low_rank_) start_error();
  if (!first_) multiply();
  if (low_rank_) finish_error();
  first_ = false;
  const auto selector = make_selector(kDefaultSelector);
  const bool row_local = is_row_local(target.pattern);
  if (!row_local) mask_ = selector->select(plain_scores(y_.view(), 2), target).mask;
  const RowLoops& loops = row_loops();
  const RowKernels& kernels = row_kernels({});
  const std::vector<std::int64_t> counts =
      row_local ? row_prune_counts(target, y_.rows(), y_.cols()) : std::vector<std::int64_t>{};
  parallel_for(y_.rows(), kAdmmRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    const std::int64_t rows = last - first;
    if (row_local) {  // here, while the rows are in the cache
      PruneTarget part = target;
      if (target.pattern.kind == Pattern::Kind::kRow) {
        part.row_counts =
            std::span(counts).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
      }
      const Mask mask =
          selector->select(plain_scores(std::as_const(y_).view().row_block(first, rows)), part).mask;
      for (std::int64_t r = 0; r < rows; ++r) {
        std::copy_n(mask.row(r), mask.words_per_row(), mask_.row(first + r));
      }
    }
    for (std::int64_t r = first; r < last; ++r) {
      std::copy_n(y_.row(r), y_.cols(), t_.row(r));
      zero_row(kernels, mutable_weight_view(t_.view()), r, mask_.row(r));
      loops.admm_split(constant_.row(r), y_.row(r), t_.row(r), y_.cols());
    }
  });
  if (!low_rank_) return;
  fit_low_rank(kAdmmRounds);
  move_constant();
}

Matrix AdmmIteration::take_weight() {
  const RowKernels& kernels = row_kernels({});
  parallel_for(t_.rows(), kAdmmRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      zero_row(kernels, mutable_weight_view(t_.view()), r, mask_.row(r));  // where kept, U = 0 and so T = Z
      for (std::int64_t j = 0; j < t_.cols(); ++j) t_.at(r, j) /= gram_.norm[static_cast<std::size_t>(j)];
    }
  });
  return std::move(t_);
}

std::unique_ptr<Refiner> make_admm(const AdmmOptions& options) {
  return std::make_unique<AdmmRefiner>(options);
}

}  // namespace swiftprune
