// What a run of prune will take and cost, measured: its plan on the first blocks, whose result goes nowhere.
#pragma once

#include <cstdint>

#include "swiftprune/device/device.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

// Measuring sensitivities takes about half as long as pruning (docs/performance.md).
inline constexpr double kAllocationShare = 0.5;

inline constexpr std::int64_t kTrialBlocks = 2;

struct BlockTrial {
  std::int64_t num_blocks = 0;  // that were tried
  double seconds = 0.0;         // that they took
  double whole_seconds = 0.0;   // of all of the model's blocks, were they all like these
  PruneResult result;           // of these blocks
};

// Of the plan, the first blocks' part is done. Weights and files stay as they are.
BlockTrial try_first_blocks(const Model& model, Device& device, Plan plan, const TokenWindows& windows,
                            const PruneOptions& options);

}  // namespace swiftprune
