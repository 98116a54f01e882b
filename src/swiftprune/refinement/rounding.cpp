#include "swiftprune/refinement/rounding.h"

#include <cmath>
#include <utility>
#include <vector>

#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/refinement/grid_solver.h"

namespace swiftprune {
namespace {

// The weights under the mask with the range's scales, not yet rounded.
GridWeight start_of(const RefineTask& task) {
  const ConstMatrixView from = task.start != nullptr ? task.start->view() : task.weight;
  GridWeight weight(*task.grid, from.rows, from.cols);
  parallel_for(from.rows, 16, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      for (std::int64_t j = 0; j < from.cols; ++j)
        weight.values.at(r, j) = task.mask->kept(r, j) ? from.at(r, j) : 0.0f;
    }
  });
  set_range_grids(weight);
  return weight;
}

class RtnRefiner final : public Refiner {
 public:
  explicit RtnRefiner(const RtnOptions& options) : Refiner(facts_of(options)) {}

 private:
  std::unique_ptr<PreparedGram> do_prepare(const LayerStats&, const Backend&, std::string_view,
                                           const RefineExtras&) const override {
    return std::make_unique<PreparedGram>();
  }

  Refinement do_refine(const RefineTask& task, const PreparedGram&, const Backend&) const override {
    GridWeight weight = start_of(task);
    for (std::int64_t r = 0; r < weight.values.rows(); ++r) {
      for (std::int64_t j = 0; j < weight.values.cols(); ++j) {
        float& value = weight.values.at(r, j);
        value = on_grid(weight.at(r, weight.group_of(j)), value);
      }
    }
    return on_grid_result(std::move(weight), *task.mask);
  }
};

struct GptqGram final : PreparedGram {
  GridGram grid;
};

class GptqRefiner final : public Refiner {
 public:
  explicit GptqRefiner(const GptqOptions& options) : Refiner(facts_of(options)), options_(options) {}

 private:
  std::unique_ptr<PreparedGram> do_prepare(const LayerStats& stats, const Backend& backend,
                                           std::string_view tensor, const RefineExtras&) const override {
    auto prepared = std::make_unique<GptqGram>();
    Matrix hessian = stats.gram->clone();
    const double unit = damping_unit(hessian.view());
    for (std::int64_t j = 0; j < hessian.rows(); ++j)
      if (hessian.at(j, j) == 0.0f)
        hessian.at(j, j) = static_cast<float>(unit);  // inputs that are never used
    const std::vector<float> norm(static_cast<std::size_t>(hessian.rows()),
                                  static_cast<float>(std::sqrt(unit)));
    prepared->grid = prepare_grid(hessian, norm, options_.damping,
                                  options_.act_order ? ColumnOrder::kByDiagonal : ColumnOrder::kAsTheyAre,
                                  backend, tensor);
    return prepared;
  }

  Refinement do_refine(const RefineTask& task, const PreparedGram& prepared,
                       const Backend& backend) const override {
    const GridGram& gram = static_cast<const GptqGram&>(prepared).grid;
    GridWeight weight = start_of(task);
    round_columns(gram, task.mask, options_.act_order ? GroupScales::kGiven : GroupScales::kRangeOnTheWay,
                  weight, backend);
    Refinement result = on_grid_result(std::move(weight), *task.mask);
    result.report.damping = gram.damping;
    result.report.damping_raised = gram.damping_raised;
    return result;
  }

  GptqOptions options_;
};

}  // namespace

std::unique_ptr<Refiner> make_rtn(const RtnOptions& options) { return std::make_unique<RtnRefiner>(options); }
std::unique_ptr<Refiner> make_gptq(const GptqOptions& options) {
  return std::make_unique<GptqRefiner>(options);
}

}  // namespace swiftprune
