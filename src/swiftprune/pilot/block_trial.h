// What a run of prune will take and cost, measured: its plan on the first blocks, whose result goes nowhere.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

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

// How long the first blocks of some work take that tells its blocks as progress.
struct BlockTime {
  std::int64_t blocks = 0, total = 0;
  double first_seconds = 0.0;  // until the end of the first block, with what comes before it
  double seconds = 0.0;
  // Were all blocks like the last of these.
  double of_all() const;
};
// Does the work, with a ProgressFn to use, until that tells the end of kTrialBlocks of this stage; then the work is
// stopped, as by a Ctrl-C of its own. outer: hears the progress, too.
BlockTime time_first_blocks(std::string_view stage, const ProgressFn& outer,
                            const std::function<void(const ProgressFn&)>& work);

// Of the plan, the first blocks' part is done. Weights and files stay as they are.
BlockTrial try_first_blocks(const Model& model, Device& device, Plan plan, const TokenWindows& windows,
                            const PruneOptions& options);

}  // namespace swiftprune
