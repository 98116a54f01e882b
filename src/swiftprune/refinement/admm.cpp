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

constexpr std::int64_t kRowsPerChunk = 32;

bool is_row_local(const Pattern& pattern) {
  return pattern.kind == Pattern::Kind::kRow || pattern.kind == Pattern::Kind::kNofM;
}

class AdmmRefiner final : public Refiner {
 public:
  explicit AdmmRefiner(const AdmmOptions& options) : Refiner(facts_of(options)), options_(options) {}

 private:
  std::unique_ptr<PreparedGram> do_prepare(const LayerStats& stats, const Backend& backend,
                                           std::string_view tensor, bool on_grid) const override {
    auto prepared =
        std::make_unique<AdmmGram>(prepare_admm(*stats.gram, options_, backend, tensor, stats.compute));
    if (on_grid) prepare_admm_grid(*prepared, backend, tensor);
    return prepared;
  }

  Refinement do_refine(const RefineTask& task, const PreparedGram& prepared,
                       const Backend& backend) const override {
    const auto& gram = static_cast<const AdmmGram&>(prepared);
    AdmmIteration iteration(task.weight, gram, options_.rho, backend);
    run_steps(iteration, task.target, options_.steps, options_.ramp);
    Refinement result;
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
                      std::string_view tensor, ComputeType compute) {
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
  DampedInverse inverse = damped_inverse(
      normalised.view(), {.relative = options.damping, .unit = 1.0, .shift = options.rho}, backend, tensor);
  result.inverse = std::move(inverse.inverse);
  result.damping = inverse.damping;
  result.damping_raised = inverse.raised;
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
      y_(weight.rows, weight.cols),
      t_(weight.rows, weight.cols),
      mask_(weight.rows, weight.cols) {
  start(weight, y_);
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
      t_(weight.rows, weight.cols),
      mask_(weight.rows, weight.cols) {
  expect(right.rows == weight.rows && right.cols == weight.cols, "admm: a right side of the weight's shape");
  start(weight, t_);
  backend_.matmul(right, gram_.inverse.view(), 1.0f, 0.0f, constant_.view());
  std::copy_n(constant_.data(), constant_.numel(), y_.data());
}

void AdmmIteration::start(ConstMatrixView weight, Matrix& scaled) const {
  expect(gram_.inverse.rows() == weight.cols, "admm: a Gram of this linear's inputs");
  const RowLoops& loops = row_loops();
  parallel_for(weight.rows, kRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      std::copy_n(weight.row(r), weight.cols, scaled.row(r));
      loops.multiply(gram_.norm.data(), scaled.row(r), weight.cols);
    }
  });
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
  parallel_for(y_.rows(), kRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) loops.add_scaled(rho_, product_.row(r), y_.row(r), y_.cols());
  });
}

void AdmmIteration::step(const PruneTarget& target) {
  if (!first_) multiply();
  first_ = false;
  const auto selector = make_selector(kDefaultSelector);
  const bool row_local = is_row_local(target.pattern);
  if (!row_local) mask_ = selector->select(plain_scores(y_.view(), 2), target).mask;
  const RowLoops& loops = row_loops();
  const RowKernels& kernels = row_kernels({});
  const std::vector<std::int64_t> counts =
      row_local ? row_prune_counts(target, y_.rows(), y_.cols()) : std::vector<std::int64_t>{};
  parallel_for(y_.rows(), kRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
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
}

Matrix AdmmIteration::take_weight() {
  const RowKernels& kernels = row_kernels({});
  parallel_for(t_.rows(), kRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
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
