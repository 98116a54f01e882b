#include "swiftprune/refinement/refiner.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/overloaded.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/refinement/admm.h"
#include "swiftprune/refinement/aligned_admm.h"
#include "swiftprune/refinement/grid_search.h"
#include "swiftprune/refinement/pcg.h"
#include "swiftprune/refinement/rounding.h"
#include "swiftprune/refinement/row_loops.h"
#include "swiftprune/refinement/sparsegpt.h"
#include "swiftprune/refinement/swaps.h"
#include "swiftprune/selection/exact_selector.h"

namespace swiftprune {
namespace {

Matrix masked(ConstMatrixView weight, const Mask& mask) {
  const RowKernels& kernels = row_kernels({});
  Matrix result(weight.rows, weight.cols);
  parallel_for(weight.rows, 64, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      std::copy_n(weight.row(r), weight.cols, result.row(r));
      zero_row(kernels, mutable_weight_view(result.view()), r, mask.row(r));
    }
  });
  return result;
}

// Throws for the first value that is not finite.
void check_finite(ConstMatrixView weight, std::string_view tensor, std::string_view what) {
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    for (std::int64_t c = 0; c < weight.cols; ++c) {
      if (std::isfinite(weight.at(r, c))) continue;
      bad_input("{}: found a {} that is {} at row {}, column {}, expected finite numbers", tensor, what,
                weight.at(r, c), r, c);
    }
  }
}

// The dense weights under the mask, nothing else.
class NoRefiner final : public Refiner {
 public:
  NoRefiner() : Refiner(kNoRefinement) {}

 private:
  std::unique_ptr<PreparedGram> do_prepare(const LayerStats&, const Backend&, std::string_view,
                                           const RefineExtras&) const override {
    return std::make_unique<PreparedGram>();
  }
  Refinement do_refine(const RefineTask& task, const PreparedGram&, const Backend&) const override {
    return {masked(task.weight, *task.mask), *task.mask, {}, {}, {}};
  }
};

std::unique_ptr<Refiner> make_part(const RefinePart& part) {
  return std::visit(Overloaded{[](const PcgOptions& options) { return make_pcg(options); },
                               [](const AdmmOptions& options) { return make_admm(options); },
                               [](const AlignedAdmmOptions& options) { return make_aligned_admm(options); },
                               [](const SwapsOptions& options) { return make_swaps(options); },
                               [](const SparseGptOptions& options) { return make_sparsegpt(options); },
                               [](const RtnOptions& options) { return make_rtn(options); },
                               [](const GptqOptions& options) { return make_gptq(options); }},
                    part);
}

// One refiner after the other; each starts from the mask and the weights of the one before.
class ChainRefiner final : public Refiner {
 public:
  explicit ChainRefiner(const RefineSpec& spec) : Refiner(spec.facts()) {
    for (const RefinePart& part : spec.parts()) parts_.push_back(make_part(part));
  }

 private:
  struct Prepared final : PreparedGram {
    std::vector<std::unique_ptr<PreparedGram>> parts;
  };

  std::unique_ptr<PreparedGram> do_prepare(const LayerStats& stats, const Backend& backend,
                                           std::string_view tensor,
                                           const RefineExtras& extras) const override {
    auto prepared = std::make_unique<Prepared>();
    for (const auto& part : parts_) {
      const bool last = &part == &parts_.back();
      prepared->parts.push_back(part->prepare(stats, backend, tensor, {.grid = extras.grid && last}));
    }
    return prepared;
  }

  Refinement do_refine(const RefineTask& task, const PreparedGram& prepared,
                       const Backend& backend) const override {
    const auto& grams = static_cast<const Prepared&>(prepared).parts;
    RefineTask part_task = task;
    Refinement result;
    RefineReport report;
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      part_task.grid = i + 1 == parts_.size() ? task.grid : std::nullopt;
      Refinement next = parts_[i]->refine(part_task, *grams[i], backend);
      report.damping = std::max(report.damping, next.report.damping);
      report.damping_raised += next.report.damping_raised;
      result = std::move(next);
      part_task.mask = &result.mask;
      part_task.start = &result.weight;
    }
    result.report = report;
    return result;
  }

  std::vector<std::unique_ptr<Refiner>> parts_;
};

}  // namespace

std::unique_ptr<PreparedGram> Refiner::prepare(const LayerStats& stats, const Backend& backend,
                                               std::string_view tensor, const RefineExtras& extras) const {
  if (uses_gram()) {
    expect(stats.gram != nullptr, "prepare: the Gram matrix was collected");
    check_gram(stats.gram, stats.gram->rows(), tensor);
  }
  auto prepared = do_prepare(stats, backend, tensor, extras);
  prepared->gram = uses_gram() ? stats.gram : nullptr;
  return prepared;
}

Refinement Refiner::refine(const RefineTask& task, const PreparedGram& prepared,
                           const Backend& backend) const {
  const ConstMatrixView w = task.weight;
  check_target(task.target, w.rows, w.cols);
  check_pattern(facts_, task.target.pattern, task.target.tensor);
  expect(!uses_mask() || task.mask != nullptr, "refine: a mask for a refiner that uses one");
  expect(task.mask == nullptr || (task.mask->rows() == w.rows && task.mask->cols() == w.cols),
         "refine: the mask of this weight");
  if (task.grid) check_grid(*task.grid, w.cols, std::string(task.target.tensor));
  expect(task.start == nullptr || (task.start->rows() == w.rows && task.start->cols() == w.cols),
         "refine: start weights of this shape");
  expect(task.low_rank == 0 || facts_.finds_low_rank, "refine: a low-rank part of a refiner that finds one");
  expect(prepared.gram == nullptr || prepared.gram->rows() == w.cols,
         "refine: the Gram of this linear's inputs");
  check_finite(w, task.target.tensor, "weight");
  Refinement result = do_refine(task, prepared, backend);
  check_finite(result.weight.view(), task.target.tensor, "refined weight");
  expect(task.grid.has_value() == result.quantized.has_value(), "refine: codes for a grid");
  expect((task.low_rank > 0) == result.low_rank.has_value(),
         "refine: a low-rank part where one was asked for");
  if (result.low_rank) {
    check_finite(result.low_rank->left.view(), task.target.tensor, "low-rank factor");
    check_finite(result.low_rank->right.view(), task.target.tensor, "low-rank factor");
  }
  return result;
}

Refinement on_grid_result(GridWeight weight, const Mask& mask) {
  Refinement result;
  result.quantized = weight.quantized();
  result.weight = dequantize(*result.quantized);
  result.mask = mask;
  return result;
}

std::unique_ptr<Refiner> make_refiner(const RefineSpec& spec) {
  if (spec.is_none()) return std::make_unique<NoRefiner>();
  if (spec.parts().size() == 1) return make_part(spec.parts().front());
  return std::make_unique<ChainRefiner>(spec);
}

const RowLoops& row_loops() {
  const CpuFeatures& cpu = cpu_features();
  return cpu.avx512 ? kAvx512RowLoops : cpu.avx2 ? kAvx2RowLoops : kBaselineRowLoops;
}

}  // namespace swiftprune
