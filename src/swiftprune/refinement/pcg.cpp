#include "swiftprune/refinement/pcg.h"

#include <algorithm>
#include <vector>

#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/refinement/row_loops.h"
#include "swiftprune/selection/exact_selector.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kPcgRowsPerChunk = 32;

class PcgGram final : public PreparedGram {
 public:
  float damping = 0.0f;         // δ
  std::vector<float> diagonal;  // [I] 1 / (G_jj + δ)
};

class PcgRefiner final : public Refiner {
 public:
  explicit PcgRefiner(const PcgOptions& options) : Refiner(facts_of(options)), options_(options) {}

 private:
  std::unique_ptr<PreparedGram> do_prepare(const LayerStats& stats, const Backend&, std::string_view,
                                           const RefineExtras&) const override {
    const Matrix& gram = *stats.gram;
    auto prepared = std::make_unique<PcgGram>();
    prepared->damping = static_cast<float>(options_.damping * damping_unit(gram.view()));
    for (std::int64_t j = 0; j < gram.rows(); ++j) {
      prepared->diagonal.push_back(1.0f / (gram.at(j, j) + prepared->damping));
    }
    return prepared;
  }

  Refinement do_refine(const RefineTask& task, const PreparedGram& prepared,
                       const Backend& backend) const override;

  PcgOptions options_;
};

// r = (W - B)(G + δI) on all inputs; only its kept part, z = precondition·r with the preconditioner zero
// where pruned, moves B.
Refinement PcgRefiner::do_refine(const RefineTask& task, const PreparedGram& prepared,
                                 const Backend& backend) const {
  const auto& gram = static_cast<const PcgGram&>(prepared);
  const RowLoops& loops = row_loops();
  const RowKernels& kernels = row_kernels({});
  const std::int64_t rows = task.weight.rows;
  const std::int64_t cols = task.weight.cols;
  Matrix b(rows, cols);
  Matrix p(rows, cols);  // W - B, then the direction
  Matrix q(rows, cols);  // direction times Gram
  Matrix r(rows, cols);
  std::vector<float> energy(static_cast<std::size_t>(rows));  // Σ z·r of each row

  // body(row, preconditioner of the row)
  const auto for_rows = [&](const auto& body) {
    parallel_for(rows, kPcgRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
      Matrix precondition(1, cols);
      for (std::int64_t i = first; i < last; ++i) {
        std::copy_n(gram.diagonal.data(), cols, precondition.data());
        zero_row(kernels, mutable_weight_view(precondition.view()), 0, task.mask->row(i));
        body(i, precondition.data());
      }
    });
  };

  parallel_for(rows, kPcgRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      std::copy_n(task.start != nullptr ? task.start->row(i) : task.weight.row(i), cols, b.row(i));
      zero_row(kernels, mutable_weight_view(b.view()), i, task.mask->row(i));
      std::copy_n(task.weight.row(i), cols, p.row(i));
      loops.add_scaled(-1.0f, b.row(i), p.row(i), cols);
    }
  });
  backend.matmul(p.view(), gram.gram->view(), 1.0f, 0.0f, r.view());
  for_rows([&](std::int64_t i, const float* precondition) {
    loops.add_scaled(gram.damping, p.row(i), r.row(i), cols);
    std::fill_n(p.row(i), cols, 0.0f);
    loops.pcg_turn(0.0f, precondition, r.row(i), p.row(i), cols);
    energy[static_cast<std::size_t>(i)] = loops.dot(p.row(i), r.row(i), cols);
  });
  for (int step = 0; step < options_.steps; ++step) {
    check_interrupt();
    backend.matmul(p.view(), gram.gram->view(), 1.0f, 0.0f, q.view());
    for_rows([&](std::int64_t i, const float* precondition) {
      float& old = energy[static_cast<std::size_t>(i)];
      const float curvature = loops.pcg_curvature(gram.damping, p.row(i), q.row(i), cols);
      if (!(curvature > 0.0f) || !(old > 0.0f)) return;  // the row has converged
      const float now =
          loops.pcg_descend(old / curvature, p.row(i), q.row(i), precondition, b.row(i), r.row(i), cols);
      loops.pcg_turn(now / old, precondition, r.row(i), p.row(i), cols);
      old = now;
    });
  }
  Refinement result;
  result.weight = std::move(b);
  result.mask = *task.mask;
  result.report.damping = options_.damping;
  return result;
}

}  // namespace

std::unique_ptr<Refiner> make_pcg(const PcgOptions& options) { return std::make_unique<PcgRefiner>(options); }

}  // namespace swiftprune
