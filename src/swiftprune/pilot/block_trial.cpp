#include "swiftprune/pilot/block_trial.h"

#include <algorithm>

#include "swiftprune/core/stopwatch.h"

namespace swiftprune {
namespace {

class NullOutput final : public PruneOutput {
 public:
  void write_part(const std::string&, std::int64_t, std::span<const std::byte>) override {}
};

}  // namespace

BlockTrial try_first_blocks(const Model& model, Device& device, Plan plan, const TokenWindows& windows,
                            const PruneOptions& options) {
  BlockTrial trial;
  trial.num_blocks = std::min(kTrialBlocks, model.config().num_layers());
  for (PlanEntry& entry : plan.entries) entry.prune = entry.prune && entry.layer < trial.num_blocks;
  NullOutput nowhere;
  {
    const Stopwatch watch(trial.seconds);
    trial.result = device.prune(model, plan, windows, options, nowhere);
  }
  trial.whole_seconds = trial.seconds * static_cast<double>(model.config().num_layers()) /
                        static_cast<double>(trial.num_blocks);
  return trial;
}

}  // namespace swiftprune
