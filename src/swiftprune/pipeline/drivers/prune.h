// The whole path of a checkpoint through pruning, one decoder block at a time: statistics, scores, selection,
// refinement, zeros, output. In memory are one block, its statistics and the hidden states of the calibration
// windows; with an aligned refinement (two_streams.h) two blocks and two streams of hidden states. Here is
// what is decided, for every device; what is done to a block is a shop's (prune_shop.h).
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/choices/row_budgets.h"
#include "swiftprune/pipeline/method.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/pipeline/tensor_output.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/selection/selector.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

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
  // Of the inputs in the file, where it is not the model's own: position p holds what was input order[p].
  std::vector<std::int64_t> order = {};
  std::int64_t low_rank = 0;  // of the part that stands beside it in the adapter (adapter_output.h)
};

// All that a block's pruning told.
struct FinishedBlock {
  std::int64_t layer = 0;
  bool weights_changed = false;
  std::vector<TensorResult> tensors;
  // Of a block whose experts were pruned by statistics: calibration tokens that the router sent to each.
  std::vector<std::int64_t> expert_tokens = {};
  // Tensors that were written for the sake of another one's order alone: biases, and linears that the plan skips.
  std::vector<std::string> reordered = {};
};

inline constexpr std::int64_t kMinExpertTokens = 128;

// The same linears at other settings, solved beside the plan's own from the same statistics and kept nowhere but where
// take() puts them: what a search over plans (tune/) chooses from. Later linears see the plan's own alone.
struct SolvedLevels {
  // Of each of the plan's entries, what else it is solved at: the same linear, other sparsities and grids.
  std::vector<std::vector<PlanEntry>> levels;
  // Which of them this process solves, where other ranks solve the rest; empty: all.
  std::function<bool(std::size_t entry, std::size_t level)> is_own;
  // The values [rows, cols] that the checkpoint's dtype would hold. From the run's thread, in the order of the plan.
  std::function<void(std::size_t entry, std::size_t level, const TensorResult& result,
                     ConstMatrixView weight)>
      take;
};

struct PruneOptions {
  SelectKind select = kDefaultSelector;
  SelectorOptions selector;
  Propagation propagation = Propagation::kPruned;
  ComputeType compute = ComputeType::kF32;  // of the calibration forwards
  ProgressFn progress;                      // stage "prune", in blocks
  // Of all blocks, for row budgets, where they are known already; else they are measured first.
  std::vector<RowEffects::Readers> readers;
  // Blocks 0, 1, ... of the same run that were finished before it was killed: their weights come from
  // PruneOutput::read(), and only the calibration windows pass through them again. The result is the same.
  std::vector<FinishedBlock> finished;
  // An expert that fewer calibration tokens were sent to takes the statistics of all tokens of its layer, as if they
  // all had been.
  std::int64_t min_expert_tokens = kMinExpertTokens;
  const SolvedLevels* levels = nullptr;  // none; for models without experts
  // The processes that do this run together, each with the same model, plan, windows and options. Each one's output gets
  // what one process alone would write; read() is asked of the first one's.
  Communicator* ranks = &alone();
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
  std::int64_t resumed_blocks = 0;  // taken over from an earlier run
  double sparsity = 0.0;            // of all linears of the blocks
  struct LayerTokens {
    std::int64_t layer = 0;
    std::vector<std::int64_t> tokens;  // FinishedBlock::expert_tokens
  };
  std::vector<LayerTokens> expert_tokens;
};

// Where pruned tensors go, whole tensors one after the other of each block, and finish() once for each block
// after its tensors.
class PruneOutput : public TensorOutput {
 public:
  // Does it store codes and scales of weights on a grid as they are? Otherwise they are written as values in the
  // checkpoint's dtype, and later blocks see those.
  virtual bool keeps_grids() const { return false; }
  virtual void write_quantized(const std::string& name, const QuantizedWeight& weight);
  virtual void finish(const FinishedBlock&) {}  // one call at a time, from any thread
  // What an earlier run wrote; asked for only for PruneOptions::finished.
  virtual void read(const std::string& name, std::span<float> values);
};

// Of a rank that writes nothing.
class NoOutput final : public PruneOutput {
 public:
  explicit NoOutput(bool keeps_grids) : keeps_grids_(keeps_grids) {}
  bool takes(const std::string&) const override { return false; }
  void write_part(const std::string&, std::int64_t, std::span<const std::byte>) override {}
  bool keeps_grids() const override { return keeps_grids_; }
  void write_quantized(const std::string&, const QuantizedWeight&) override {}

 private:
  bool keeps_grids_;
};

// On the processor. windows: calibration text; may be empty when no part of the plan reads statistics.
// Throws Error{kBadInput} for NaN or infinite weights or activations, naming the tensor; nothing is written
// for it.
PruneResult prune(const Model& model, const Backend& backend, const Plan& plan, const TokenWindows& windows,
                  const PruneOptions& options, PruneOutput& output);

// Which calibration statistics does the plan read, and does it read any?
StatNeeds calibration_needs(const Plan& plan);
bool needs_calibration(const Plan& plan);
// Error{kBadInput} for a packed model, before anything is measured of it.
void check_not_packed(const Model& model);

}  // namespace swiftprune
