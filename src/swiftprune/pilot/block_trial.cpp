#include "swiftprune/pilot/block_trial.h"

#include <algorithm>
#include <chrono>
#include <stop_token>

#include "swiftprune/core/run_context.h"
#include "swiftprune/core/stopwatch.h"

namespace swiftprune {
namespace {

class NullOutput final : public PruneOutput {
 public:
  void write_part(const std::string&, std::int64_t, std::span<const std::byte>) override {}
};

}  // namespace

double BlockTime::of_all() const {
  if (blocks == 0) return 0.0;
  const double each = blocks == 1 ? seconds : (seconds - first_seconds) / static_cast<double>(blocks - 1);
  return seconds + each * static_cast<double>(total - blocks);
}

BlockTime time_first_blocks(std::string_view stage, const ProgressFn& outer,
                            const std::function<void(const ProgressFn&)>& work) {
  const RunContext run = current_run();
  std::stop_source enough;
  const std::stop_callback passed_on(run.stop, [&enough] { enough.request_stop(); });
  BlockTime time;
  const auto start = std::chrono::steady_clock::now();
  const ProgressFn progress = [&](std::string_view at, std::int64_t done, std::int64_t total) {
    outer(at, done, total);
    if (at != stage || time.blocks >= kTrialBlocks) return;
    time.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (time.blocks == 0) time.first_seconds = time.seconds;
    time.blocks = done;
    time.total = total;
    if (time.blocks >= kTrialBlocks) enough.request_stop();
  };
  const RunScope scope({enough.get_token(), progress, run.threads});
  try {
    work(progress);
  } catch (const Interrupted&) {
    if (run.stop.stop_requested()) throw;
  }
  return time;
}

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
