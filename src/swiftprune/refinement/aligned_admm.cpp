#include "swiftprune/refinement/aligned_admm.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/refinement/admm.h"
#include "swiftprune/refinement/layer_error.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kAlignedAdmmRowsPerChunk = 32;

struct AlignedGram final : PreparedGram {
  AdmmGram admm;
  Matrix moments;                    // [I, I] ((1 - α)G + αC)/n: column j divided by n_j
  const Matrix* residual = nullptr;  // the caller's R, or null
};

// Scales the rows of weights and of the low-rank part beside them, where there is one. Returns what each row was
// multiplied with. [O]
std::vector<float> match_row_energies(ConstMatrixView dense, const Matrix& gram, const Backend& backend,
                                      Refinement& refined) {
  const MatrixView weight = refined.weight.view();
  std::vector<float> factors(static_cast<std::size_t>(weight.rows), 1.0f);
  const std::vector<double> wanted = row_energies(dense, gram.view(), backend);
  const std::vector<double> found =
      refined.low_rank ? row_energies(sum_of(weight, *refined.low_rank, backend).view(), gram.view(), backend)
                       : row_energies(weight, gram.view(), backend);
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    const auto i = static_cast<std::size_t>(r);
    if (!(wanted[i] > 0.0 && found[i] > 0.0)) continue;
    const double scale = std::sqrt(std::clamp(std::sqrt(wanted[i] / found[i]), 0.5, 2.0));
    factors[i] = static_cast<float>(scale);
    for (float& value : weight.row_span(r)) value *= factors[i];
    if (!refined.low_rank) continue;
    for (float& value : refined.low_rank->left.view().row_span(r)) value *= factors[i];
  }
  return factors;
}

class AlignedAdmmRefiner final : public Refiner {
 public:
  explicit AlignedAdmmRefiner(const AlignedAdmmOptions& options)
      : Refiner(facts_of(options)), options_(options) {}

 private:
  std::unique_ptr<PreparedGram> do_prepare(const LayerStats& stats, const Backend& backend,
                                           std::string_view tensor,
                                           const RefineExtras& extras) const override {
    const Matrix& gram = *stats.gram;
    const std::int64_t n = gram.rows();
    expect(stats.cross == nullptr || (stats.cross->rows() == n && stats.cross->cols() == n),
           "aligned-admm: cross moments [I, I]");
    auto prepared = std::make_unique<AlignedGram>();
    prepared->admm = prepare_admm(gram, options_.admm(), backend, tensor, stats.compute, extras);
    if (extras.grid) prepare_admm_grid(prepared->admm, backend, tensor);
    prepared->residual = stats.residual;
    prepared->moments = Matrix(n, n);
    const double alpha = stats.cross != nullptr ? options_.alpha : 0.0;
    parallel_for(n, 64, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
          const double g = double{gram.at(i, j)};
          const double c = alpha > 0.0 ? double{stats.cross->at(i, j)} : 0.0;
          prepared->moments.at(i, j) = static_cast<float>(
              ((1.0 - alpha) * g + alpha * c) / double{prepared->admm.norm[static_cast<std::size_t>(j)]});
        }
      }
    });
    return prepared;
  }

  // T/n + damping·W'
  Matrix right_side(const RefineTask& task, const AlignedGram& gram, const Backend& backend) const {
    const ConstMatrixView weight = task.weight;
    const Matrix* residual = options_.beta > 0.0 ? gram.residual : nullptr;
    expect(residual == nullptr ||
               (residual->rows() >= task.first_row + weight.rows && residual->cols() == weight.cols),
           "aligned-admm: residual moments [O, I]");
    Matrix right(weight.rows, weight.cols);
    const auto beta = static_cast<float>(options_.beta);
    const auto damping = static_cast<float>(gram.admm.damping);
    parallel_for(weight.rows, kAlignedAdmmRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) {
        for (std::int64_t j = 0; j < weight.cols; ++j) {
          const float norm = gram.admm.norm[static_cast<std::size_t>(j)];
          const float moved = residual != nullptr ? beta * residual->at(task.first_row + r, j) / norm : 0.0f;
          right.at(r, j) = damping * weight.at(r, j) * norm + moved;
        }
      }
    });
    backend.matmul(weight, gram.moments.view(), 1.0f, 1.0f, right.view());
    return right;
  }

  Refinement do_refine(const RefineTask& task, const PreparedGram& prepared,
                       const Backend& backend) const override {
    const auto& gram = static_cast<const AlignedGram&>(prepared);
    const Matrix right = right_side(task, gram, backend);
    AdmmIteration iteration(task.weight, right.view(), gram.admm, options_.admm().rho, backend);
    if (task.low_rank > 0) {
      Matrix best(task.weight.rows, task.weight.cols);
      backend.matmul(right.view(), gram.admm.metric_inverse.view(), 1.0f, 0.0f, best.view());
      iteration.add_low_rank(task.low_rank, std::move(best));
    }
    run_steps(iteration, task.target, options_.steps, options_.ramp);
    Refinement result;
    if (task.low_rank > 0) result.low_rank = iteration.take_low_rank();
    result.weight = iteration.take_weight();
    result.mask = iteration.mask();
    result.report.damping = gram.admm.damping;
    result.report.damping_raised = gram.admm.damping_raised;
    const std::vector<float> factors = match_row_energies(task.weight, *gram.gram, backend, result);
    if (!task.grid) return result;
    const Matrix target = grid_target(task.weight, right, factors, gram);
    return put_on_grid(task, result, target.view(), gram.admm, backend);
  }

  // T + damping·W n² with the grid's damping, of rows that were scaled as the result's.
  static Matrix grid_target(ConstMatrixView weight, const Matrix& right, const std::vector<float>& factors,
                            const AlignedGram& gram) {
    Matrix target(weight.rows, weight.cols);
    const auto more = static_cast<float>(gram.admm.grid->damping - gram.admm.damping);
    parallel_for(weight.rows, kAlignedAdmmRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) {
        const float factor = factors[static_cast<std::size_t>(r)];
        for (std::int64_t j = 0; j < weight.cols; ++j) {
          const float norm = gram.admm.norm[static_cast<std::size_t>(j)];
          target.at(r, j) = factor * norm * (right.at(r, j) + more * norm * weight.at(r, j));
        }
      }
    });
    return target;
  }

  AlignedAdmmOptions options_;
};

}  // namespace

std::unique_ptr<Refiner> make_aligned_admm(const AlignedAdmmOptions& options) {
  return std::make_unique<AlignedAdmmRefiner>(options);
}

}  // namespace swiftprune
