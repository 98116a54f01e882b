#include "swiftprune/pipeline/drivers/shared_refinement.h"

#include <algorithm>
#include <utility>

namespace swiftprune {
namespace {

// Do rows that are refined alone have the targets that they have among all? Not where the remainder of a total is spread
// over all rows.
bool has_row_targets(const PruneTarget& target) {
  return target.pattern.kind == Pattern::Kind::kNofM || !target.row_counts.empty() ||
         target.rounding == PruneTarget::Rounding::kFloor;
}

Mask mask_rows(const Mask& mask, std::int64_t first, std::int64_t count) {
  Mask rows(count, mask.cols());
  for (std::int64_t r = 0; r < count; ++r)
    std::copy_n(mask.row(first + r), mask.words_per_row(), rows.row(r));
  return rows;
}

}  // namespace

bool refines_by_rows(const PlanEntry& entry, const PruneTarget& target) {
  return entry.refine.works_by_rows(target.pattern) && has_row_targets(target);
}

void SharedRefinement::add(std::size_t linear, ConstMatrixView weight, const PlanEntry& entry,
                           const PruneTarget& target, Mask mask) {
  Task& task = tasks_.emplace_back(Task{linear, weight, &entry, target, {}, std::move(mask)});
  task.row_counts.assign(target.row_counts.begin(), target.row_counts.end());
}

// The largest first, each to the rank that has least; all ranks find the same.
std::vector<SharedRefinement::Part> SharedRefinement::parts() const {
  std::vector<Part> parts;
  for (std::size_t t = 0; t < tasks_.size(); ++t) {
    const Task& task = tasks_[t];
    const std::int64_t rows = task.weight.rows;
    const std::int64_t step = refines_by_rows(*task.entry, task.target)
                                  ? backend_.product_rows(rows, task.weight.cols, compute_)
                                  : rows;
    for (std::int64_t first = 0; first < rows; first += step)
      parts.push_back({t, first, std::min(step, rows - first), 0});
  }
  std::stable_sort(parts.begin(), parts.end(),
                   [](const Part& a, const Part& b) { return a.count > b.count; });
  std::vector<std::int64_t> load(static_cast<std::size_t>(ranks_.size()), 0);
  for (Part& part : parts) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += part.count;
    part.rank = static_cast<int>(least - load.begin());
  }
  return parts;
}

Refinement SharedRefinement::refine_part(const Part& part, const PrepareFn& prepare) const {
  const Task& task = tasks_[part.task];
  const auto refiner = make_refiner(task.entry->refine);
  RefineTask rows;
  rows.weight = task.weight.row_block(part.first, part.count);
  rows.first_row = part.first;
  rows.target = task.target;
  if (!task.row_counts.empty()) {
    rows.target.row_counts =
        std::span(task.row_counts)
            .subspan(static_cast<std::size_t>(part.first), static_cast<std::size_t>(part.count));
  }
  Mask mask;
  if (refiner->uses_mask()) {
    mask = mask_rows(task.mask, part.first, part.count);
    rows.mask = &mask;
  }
  return refiner->refine(rows, prepare(*task.entry, *refiner), backend_);
}

std::vector<SharedRefinement::Result> SharedRefinement::refine(const PrepareFn& prepare) {
  if (tasks_.empty()) return {};
  const std::vector<Part> parts = this->parts();
  std::vector<Refinement> refined(parts.size());
  for (std::size_t p = 0; p < parts.size(); ++p) {
    if (parts[p].rank == ranks_.rank()) refined[p] = refine_part(parts[p], prepare);
  }
  std::vector<Result> results;
  for (const Task& task : tasks_)
    results.push_back({task.linear, task.entry, Matrix(task.weight.rows, task.weight.cols), {}});
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const Part& part = parts[p];
    Result& result = results[part.task];
    const MatrixView rows = result.weight.view().row_block(part.first, part.count);
    double damping[] = {0.0, 0.0};  // how often it was raised; to what
    if (part.rank == ranks_.rank()) {
      damping[0] = refined[p].report.damping_raised;
      damping[1] = refined[p].report.damping;
      std::copy_n(refined[p].weight.data(), rows.numel(), rows.data);
      refined[p] = {};
    }
    ranks_.broadcast(part.rank, std::as_writable_bytes(std::span(damping)));
    ranks_.broadcast(part.rank,
                     std::as_writable_bytes(std::span(rows.data, static_cast<std::size_t>(rows.numel()))));
    if (damping[0] > 0.0) result.damping = damping[1];
  }
  tasks_.clear();
  return results;
}

}  // namespace swiftprune
