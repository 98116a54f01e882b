// The statistics that a block's linears are pruned by, on the device: their memory, taken once for a run, and which of them
// a linear reads.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "swiftprune/cuda/statistics/calibration.h"
#include "swiftprune/pipeline/drivers/prune_shop.h"

namespace swiftprune::cuda {

class InputStatistics {
 public:
  // windows: this rank's. widest: the most inputs of a linear. ranks: null for one; outlives this.
  InputStatistics(DeviceMemory& memory, const PruneRun& run, const TokenWindows& windows, DType compute,
                  std::int64_t widest, cudaStream_t stream, StatisticsRanks* ranks);

  // The block's of this input begin, with `inputs` columns. The rest as DeviceStats::start().
  DeviceStats* start(LinearInput input, std::int64_t inputs, const StatNeeds& needs,
                     std::int64_t residual_size, float residual_factor);
  // Null where none were started.
  DeviceStats* of(LinearInput input) { return stats_[static_cast<std::size_t>(input)]; }

  // From now on the linears in hand read this input; with drop() its statistics may go.
  void take(LinearInput input);
  void drop(LinearInput input);
  const DeviceStats* in_hand() const { return in_hand_; }

  // What a linear reads of the input in hand: all that was seen, or a part. is_new: another part than the linear before
  // read, so that what was prepared for that one is of no use.
  struct Read {
    const DeviceStats* stats = nullptr;
    bool is_new = false;
  };
  Read read_by(const LinearTensors& linear);
  // The cross moments of what was read last; null where there are none.
  float* cross() const;

 private:
  void make_room_for_moments(const PruneRun& run);
  void make_room_for_held(const PruneRun& run, const TokenWindows& windows, DType compute,
                          std::int64_t widest);

  DeviceMemory& memory_;
  const bool aligned_;
  std::array<Moments, kNumLinearInputs> moments_;
  std::vector<DeviceStats> all_;                        // by LinearInput
  std::array<DeviceStats*, kNumLinearInputs> stats_{};  // those that hold the block's inputs
  DeviceStats* in_hand_ = nullptr;
  std::optional<DeviceStats> part_;  // of the input in hand, from column part_first_ on
  Moments part_moments_;
  std::int64_t part_first_ = -1;
};

}  // namespace swiftprune::cuda
