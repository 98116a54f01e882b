// The linears that read one input, refined by all ranks of a run together: each refines some of them, or some of their
// rows where rows do not depend on one another, and the new weights go to all. The bits are those of one process.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "swiftprune/pipeline/drivers/prune_shop.h"
#include "swiftprune/refinement/refiner.h"

namespace swiftprune {

// May rows of the linear be refined alone, with the result that they have among all?
bool refines_by_rows(const PlanEntry& entry, const PruneTarget& target);

class SharedRefinement {
 public:
  SharedRefinement(const PruneRun& run, const Backend& backend)
      : backend_(backend), ranks_(*run.options.ranks), compute_(run.options.compute) {}

  // Is it refined here? With one rank nothing is, and a weight on a grid is refined by every rank for itself.
  bool takes(const PlanEntry& entry) const { return ranks_.size() > 1 && !entry.grid; }
  // The weight must stay as it is until refine(). mask: of a refinement that uses one.
  void add(std::size_t linear, ConstMatrixView weight, const PlanEntry& entry, const PruneTarget& target,
           Mask mask);

  struct Result {
    std::size_t linear = 0;
    const PlanEntry* entry = nullptr;
    Matrix weight;
    std::optional<double> damping;  // where it had to be raised
  };
  using PrepareFn = std::function<const PreparedGram&(const PlanEntry& entry, const Refiner& refiner)>;
  // Of what was added since the last call, in that order.
  std::vector<Result> refine(const PrepareFn& prepare);

 private:
  struct Task {
    std::size_t linear = 0;
    ConstMatrixView weight{};
    const PlanEntry* entry = nullptr;
    PruneTarget target{};
    std::vector<std::int64_t> row_counts;
    Mask mask;
  };
  struct Part {
    std::size_t task = 0;
    std::int64_t first = 0, count = 0;  // rows
    int rank = 0;                       // that refines them
  };
  std::vector<Part> parts() const;
  Refinement refine_part(const Part& part, const PrepareFn& prepare) const;

  const Backend& backend_;
  Communicator& ranks_;
  ComputeType compute_;
  std::vector<Task> tasks_;
};

}  // namespace swiftprune
