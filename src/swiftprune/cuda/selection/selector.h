// Scores and selection of single linears on the device: the parts of a run that reads weights once.
#pragma once

#include <optional>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/cuda/refinement/damped_factor.h"
#include "swiftprune/cuda/selection/matrix_select.h"
#include "swiftprune/cuda/selection/selection_kernels.h"
#include "swiftprune/cuda/statistics/calibration.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/scoring/scores.h"

namespace swiftprune::cuda {

struct LinearSizes {  // the largest of the linears in hand
  std::int64_t rows = 0, cols = 0, numel = 0;
};

class DeviceSelector {
 public:
  // Scratch for `linears` linears that are in work side by side, and for what the plan's entries need.
  DeviceSelector(DeviceMemory& memory, Products& products, const Plan& plan, std::size_t linears,
                 const LinearSizes& sizes, cudaStream_t stream);

  // Before the linears of the next input.
  void start_input() { obs_columns_.clear(); }
  // Whether the linear may be in work beside others, on a stream of its own.
  static bool is_independent(const PlanEntry& entry);

  struct Scored {
    PruneRowsArgs args;  // without `out`, mask and counters
    int power = 1;
  };
  // The keys of linear number `linear`: factors on the device, or a matrix in place of the weights.
  Scored score(DeviceView weight, std::size_t linear, const PlanEntry& entry, const DeviceStats* stats,
               cudaStream_t lane);
  // Zeroes the lowest. mask: [O, I] gets what is kept, or null (patterns row and N:M of independent linears).
  void select(const Scored& scored, DeviceView weight, std::size_t linear, const PruneTarget& target,
              DeviceView out, std::uint8_t* mask, PruneCounters* counters, cudaStream_t lane);
  // The mask alone, on the main stream; the counters tell only whether a key was not finite.
  void select_mask(const Scored& scored, DeviceView weight, std::size_t linear, const PruneTarget& target,
                   PruneCounters* counters);
  std::uint8_t* mask() const { return mask_.as<std::uint8_t>(); }
  // Weights of each row below one threshold on |W_ij|·√e_j·r_i that takes `total` of them.
  std::vector<std::int64_t> threshold_counts(DeviceView weight, std::span<const double> energy,
                                             std::span<const float> effects, std::int64_t total);
  MatrixSelect& matrix_select() { return matrix_; }

 private:
  Scores scores_of(DeviceView weight, const PlanEntry& entry, const DeviceStats* stats);
  Scores obs_scores(const DeviceStats& stats, std::string_view tensor);
  Scores ria_scores(DeviceView weight, const PlanEntry& entry, const LayerStats& stats);
  void select_rows(PruneRowsArgs args, std::size_t linear, const PruneTarget& target, cudaStream_t lane);

  Products& products_;
  cudaStream_t stream_;
  MatrixSelect matrix_;
  std::unique_ptr<Backend> cpu_;                // asked for by the scorers' interface
  std::vector<DeviceBuffer> factors_, counts_;  // by linear
  DeviceBuffer sums_, abs_scratch_, mask_, keys_, unused_counters_;
  std::optional<DampedFactor> factor_;
  std::vector<float> obs_columns_;  // of the input in hand, once computed
};

}  // namespace swiftprune::cuda
