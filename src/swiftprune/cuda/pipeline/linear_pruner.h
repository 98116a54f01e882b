// The linears of one input of a block: row budgets, scores, selection and refinement, and what they leave to
// tell.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <vector>

#include "swiftprune/cuda/pipeline/row_effects.h"
#include "swiftprune/cuda/refinement/refiner.h"
#include "swiftprune/pipeline/drivers/prune.h"

namespace swiftprune::cuda {

class LinearPruner {
 public:
  // Room for up to `linears` linears of a block. seconds: where the stages' times are added.
  LinearPruner(DeviceMemory& memory, Products& products, const Plan& plan, std::size_t linears, DType compute,
               cudaStream_t stream, StageSeconds& seconds);

  void start_block();
  // Those that read `input`: from `dense` into `pruned`, which may be the same. cross: memory of its cross
  // moments. effects: where the plan has row budgets.
  void prune(const BlockWeights& dense, const BlockWeights& pruned,
             const std::vector<const PlanEntry*>& entries, LinearInput input, const DeviceStats* stats,
             float* cross, DeviceRowEffects* effects);
  // Waits for the device. What the block's linears had, by number.
  std::vector<PruneCounters> counters(std::size_t linears) const;
  std::optional<double> raised_damping(std::size_t linear) const;
  bool refines() const { return refiner_.has_value(); }
  bool weights_changed() const { return weights_changed_; }  // in this block

 private:
  std::vector<std::vector<std::int64_t>> budgets(const BlockWeights& dense,
                                                 const std::vector<const PlanEntry*>& entries,
                                                 LinearInput input, const DeviceStats* stats,
                                                 DeviceRowEffects* effects);

  cudaStream_t stream_;
  PruneTarget::Rounding rounding_;
  StageSeconds& seconds_;
  Lanes lanes_;
  std::optional<DeviceSelector> selector_;
  std::optional<DeviceRefiner> refiner_;
  DeviceBuffer counters_;
  std::map<std::size_t, double> damping_;  // raised ones, by linear
  bool weights_changed_ = false;
};

}  // namespace swiftprune::cuda
