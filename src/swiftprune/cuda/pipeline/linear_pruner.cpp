#include "swiftprune/cuda/pipeline/linear_pruner.h"

#include <algorithm>

#include "swiftprune/core/progress.h"
#include "swiftprune/core/stopwatch.h"

namespace swiftprune::cuda {

LinearPruner::LinearPruner(DeviceMemory& memory, Products& products, const Plan& plan, std::size_t linears,
                           DType compute, cudaStream_t stream, StageSeconds& seconds)
    : stream_(stream),
      rounding_(plan.rounding),
      seconds_(seconds),
      counters_(memory, linears * sizeof(PruneCounters), "counters") {
  LinearSizes sizes;
  bool refines = false;
  for (const PlanEntry& entry : plan.entries) {
    if (!entry.prune) continue;
    sizes.rows = std::max(sizes.rows, entry.rows);
    sizes.cols = std::max(sizes.cols, entry.cols);
    sizes.numel = std::max(sizes.numel, entry.rows * entry.cols);
    refines |= !entry.refine.is_none();
  }
  // One of each for every linear of a block: they are selected side by side.
  selector_.emplace(memory, products, plan, linears, sizes, stream);
  if (refines) refiner_.emplace(memory, products, selector_->matrix_select(), plan, sizes, compute, stream);
}

void LinearPruner::start_block() {
  check(cudaMemsetAsync(counters_.data(), 0, counters_.bytes(), stream_));
  damping_.clear();
  weights_changed_ = false;
}

// The rows' numbers of weights to prune, for the entries that have row budgets; from the weights of all
// linears of this input before the first is pruned.
std::vector<std::vector<std::int64_t>> LinearPruner::budgets(const BlockWeights& dense,
                                                             const std::vector<const PlanEntry*>& entries,
                                                             LinearInput input, const DeviceStats* stats,
                                                             DeviceRowEffects* effects) {
  std::vector<std::vector<std::int64_t>> counts(entries.size());
  const auto has_budgets = [&](const PlanEntry* entry) {
    return entry->input == input && entry->has_row_budgets();
  };
  if (std::none_of(entries.begin(), entries.end(), has_budgets)) return counts;
  const Stopwatch watch(seconds_.score);
  expect(effects != nullptr && stats != nullptr, "row budgets: effects and statistics");
  const auto of_linears = effects->of(dense, entries.front()->layer, input, *stats);
  std::size_t next = 0;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i]->input != input) continue;
    const std::vector<float>& effect = of_linears[next++];
    if (!entries[i]->has_row_budgets()) continue;
    PruneTarget target;
    target.pattern.kind = Pattern::Kind::kLayer;
    target.sparsity = entries[i]->sparsity;
    target.rounding = PruneTarget::Rounding::kExactTotal;
    const std::int64_t total = total_prune_count(target, entries[i]->rows, entries[i]->cols);
    counts[i] = row_budgets(selector_->threshold_counts(dense.weight(i), stats->view().energy, effect, total),
                            entries[i]->cols, total);
  }
  return counts;
}

void LinearPruner::prune(const BlockWeights& dense, const BlockWeights& pruned,
                         const std::vector<const PlanEntry*>& entries, LinearInput input,
                         const DeviceStats* stats, float* cross, DeviceRowEffects* effects) {
  const auto counts = budgets(dense, entries, input, stats, effects);
  const RefineSpec* prepared = nullptr;  // the refinement that refiner_ is prepared for
  selector_->start_input();
  lanes_.fork(stream_);
  const auto prune_one = [&](std::size_t i) {
    const PlanEntry& entry = *entries[i];
    check_interrupt();
    PruneTarget target = entry.target(rounding_);
    target.row_counts = counts[i];
    PruneCounters* counters = counters_.as<PruneCounters>() + i;
    const DeviceView weight = dense.weight(i);
    const DeviceView out = pruned.weight(i);
    const bool refined = !entry.refine.is_none();
    if (entry.refine.facts().uses_mask) {
      const cudaStream_t lane = DeviceSelector::is_independent(entry) ? lanes_.next() : stream_;
      DeviceSelector::Scored scored;
      {
        const Stopwatch watch(seconds_.score);
        scored = selector_->score(weight, i, entry, stats, lane);
      }
      const Stopwatch watch(seconds_.select);
      if (refined) {
        selector_->select_mask(scored, weight, i, target, counters);
      } else {
        selector_->select(scored, weight, i, target, out, nullptr, counters, lane);
      }
    }
    if (!refined) return;
    const Stopwatch watch(seconds_.refine);
    if (prepared == nullptr) refiner_->prepare(entry.refine, *stats, cross, entry.tensor);
    expect(prepared == nullptr || *prepared == entry.refine,
           "prune: one refinement for the linears of an input");
    prepared = &entry.refine;
    refiner_->refine(weight, selector_->mask(), target, out, counters);
    if (const auto raised = refiner_->raised_damping()) damping_[i] = *raised;
    weights_changed_ |= !refiner_->keeps_weights();
  };
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i]->prune && entries[i]->input == input) prune_one(i);
  }
  lanes_.join(stream_);
}

std::vector<PruneCounters> LinearPruner::counters(std::size_t linears) const {
  std::vector<PruneCounters> counters(linears);
  check(cudaMemcpyAsync(counters.data(), counters_.data(), counters.size() * sizeof(PruneCounters),
                        cudaMemcpyDeviceToHost, stream_));
  check(cudaStreamSynchronize(stream_));
  return counters;
}

std::optional<double> LinearPruner::raised_damping(std::size_t linear) const {
  const auto raised = damping_.find(linear);
  return raised != damping_.end() ? std::optional(raised->second) : std::nullopt;
}

}  // namespace swiftprune::cuda
