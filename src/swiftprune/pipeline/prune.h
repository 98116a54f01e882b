// The whole path of a checkpoint through pruning, one decoder block at a time: statistics, scores, selection,
// refinement, zeros, output. In memory are one block, its statistics and the hidden states of the calibration
// windows; with an aligned refinement (two_streams.h) two blocks and two streams of hidden states.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/method.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/selection/selector.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

struct PruneOptions {
  std::string select{kDefaultSelector};
  SelectorOptions selector;
  Propagation propagation = Propagation::kPruned;
  ComputeType compute = ComputeType::kF32;  // of the calibration forwards
  ProgressFn progress;                      // stage "prune", in blocks
};

struct TensorResult {
  std::string name;
  std::string pattern;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  double asked_sparsity = 0.0;
  double sparsity = 0.0;
  // |X (W - B)ᵀ|² / |X Wᵀ|² on the calibration inputs; from the channels' energies alone where no Gram matrix
  // was kept.
  std::optional<double> error;
  std::optional<double> damping;  // raised from the refinement's own when the Gram matrix needed it
  std::optional<double> lambda;   // of the faithful EWMA selector
};

struct StageSeconds {
  double load = 0.0;
  double calibrate = 0.0;  // forwards and statistics
  double score = 0.0;
  double select = 0.0;
  double refine = 0.0;
  double write = 0.0;
  double total = 0.0;
};

struct PruneResult {
  std::vector<TensorResult> tensors;
  StageSeconds seconds;
  bool weights_changed = false;
  double sparsity = 0.0;  // of all linears of the blocks
};

// Runs `plan` on the model and hands every tensor of the checkpoint to `write(name, values)` (pruned ones) or
// `copy(name)`.
class PruneOutput {
 public:
  virtual ~PruneOutput() = default;
  virtual void write(const std::string& name, std::span<const float> values) = 0;
  // Elements [first, ...) of a tensor in the checkpoint's own dtype; parts do not overlap. What a run on a
  // GPU calls instead, from several threads at once.
  virtual void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> bytes);
};

// windows: calibration text; may be empty when no part of the plan reads statistics.
// Throws Error{kBadInput} for NaN or infinite weights or activations, naming the tensor; nothing is written
// for it.
PruneResult prune(const Model& model, const Backend& backend, const Plan& plan, const TokenWindows& windows,
                  const PruneOptions& options, PruneOutput& output);

// What its score and refinement read.
StatNeeds stat_needs(const PlanEntry& entry);
// Does the plan read calibration statistics?
bool needs_calibration(const Plan& plan);

}  // namespace swiftprune
