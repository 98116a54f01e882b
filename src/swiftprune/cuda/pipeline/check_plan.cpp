#include <map>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/cuda/stages.h"
#include "swiftprune/refinement/refiner.h"

namespace swiftprune::cuda {
namespace {

void check_entry(const PlanEntry& entry) {
  if (entry.pattern.kind != Pattern::Kind::kBlock) return;
  const std::string name = make_refiner(entry.refine)->name();
  if (name.find("swaps") != std::string::npos) {
    bad_usage("{}: the refinement swaps moves single weights and cannot keep the pattern {}; use pcg or admm",
              entry.tensor, format(entry.pattern));
  }
  if (name.find("sparsegpt") != std::string::npos) {
    bad_usage("{}: pattern: found {} with sparsegpt, expected row, layer or N:M on a GPU; use --device cpu",
              entry.tensor, format(entry.pattern));
  }
}

}  // namespace

void check_plan(const Model&, const Plan& plan, const PruneOptions& options) {
  if (options.select == "ewma") {
    bad_usage(
        "--select: found ewma, whose threshold goes from weight to weight in order, expected an exact "
        "selection on a GPU; use --device cpu");
  }
  // The Gram matrix of an input is prepared once, for one refinement.
  std::map<std::pair<std::int64_t, LinearInput>, const PlanEntry*> first_of_input;
  for (const PlanEntry& entry : plan.entries) {
    if (!entry.prune) continue;
    check_entry(entry);
    if (entry.refine == "none") continue;
    const PlanEntry* first =
        first_of_input.emplace(std::pair(entry.layer, entry.input), &entry).first->second;
    if (first->refine != entry.refine) {
      bad_usage(
          "{}: refine: found {}, expected {} as for the other linears of its input on a GPU; use --device "
          "cpu",
          entry.tensor, entry.refine, first->refine);
    }
  }
}

}  // namespace swiftprune::cuda
