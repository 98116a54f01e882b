// Where one decoder block after another is pruned: the mechanism behind prune.h's decisions. The processor
// has one (cpu_prune_shop.h), a GPU another (cuda/). A call may return before its work is done; outcomes()
// and finish() wait.
//
// Order for each block: load(), or load_finished() for one that an earlier run finished. Then without
// calibration nothing, with one stream of windows look(), with the dense stream beside it (PruneRun::aligned)
// start_block() and collect() for each input. Then for each input start_input(), row_effects(),
// threshold_counts(), select() and refine() of the linears that read it, end_input(). Then end_linears(),
// pass(), outcomes(), write() and end_block().
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "swiftprune/pipeline/choices/row_budgets.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/scoring/layer_stats.h"

namespace swiftprune {

using NeedsOfInputs = std::array<StatNeeds, kNumLinearInputs>;  // by LinearInput

// What is known of a run before its first block, so that a shop can make room for everything once.
struct PruneRun {
  const Model& model;
  const Plan& plan;
  const TokenWindows& windows;
  const PruneOptions& options;
  PruneOutput& output;
  StageSeconds& seconds;         // the shop adds what each stage took
  bool calibrated = false;       // the windows run through the model
  bool aligned = false;          // the dense model's beside the pruned one's
  bool row_budgets = false;      // some linear has them
  std::int64_t last_layer = -1;  // of those that are pruned
};

// What the pruning of a linear told.
struct LinearOutcome {
  std::int64_t zeros = 0;
  std::optional<double> error;    // TensorResult::error
  std::optional<double> damping;  // where it had to be raised
  std::optional<double> lambda;
  std::vector<std::int64_t> order = {};  // TensorResult::order
};

class PruneShop {
 public:
  virtual ~PruneShop() = default;

  // The block that all other calls are about. What is behind it up to the run's last may be fetched
  // meanwhile.
  virtual void load(std::int64_t layer) = 0;
  // Its pruned weights as an earlier run wrote them, where later calls would make them.
  virtual void load_finished(const FinishedBlock& finished) = 0;
  // Is the output of this projection normed before it joins the residual?
  virtual bool norms_output(LinearInput output) const = 0;

  // One stream: the dense block's inputs join new statistics. passes: the windows then stand behind the
  // block.
  virtual void look(const NeedsOfInputs& needs, bool passes) = 0;
  // Two streams: both stand before the block; then run up to `input`, which joins new statistics. needs: null
  // where nothing is wanted. residual: with the moments of the residual that the output joins.
  virtual void start_block() = 0;
  virtual void collect(LinearInput input, const StatNeeds* needs, bool residual) = 0;

  virtual void start_input(LinearInput input) = 0;
  // r [O] of each linear that reads the input (RowEffects::of), from the weights before any of them is
  // pruned.
  virtual std::vector<std::vector<float>> row_effects(LinearInput input) = 0;
  // As row_threshold_counts(), of the linear in hand and its input's energies.
  virtual std::vector<std::int64_t> threshold_counts(std::size_t linear, std::span<const float> effects,
                                                     const PruneTarget& target) = 0;
  // The entry's score and the target choose a mask; masks_only: for the refinement that follows, else the
  // lowest weights become zero.
  virtual void select(std::size_t linear, const PlanEntry& entry, const PruneTarget& target,
                      bool masks_only) = 0;
  virtual void refine(std::size_t linear, const PlanEntry& entry, const PruneTarget& target) = 0;
  // select() and refine() of other settings (PruneOptions::levels) for a linear that is not pruned yet, and still is not
  // behind the call. By this process alone, however many ranks there are.
  struct Aside {
    Matrix weight;  // as the file would hold it
    LinearOutcome outcome;
  };
  virtual Aside solve_aside(std::size_t linear, const PlanEntry& entry, const PruneTarget& target) = 0;
  // All linears that read the input are pruned; its statistics may go.
  virtual void end_input(LinearInput input) = 0;

  // Of a block with experts: one after the other, each its gate, up and down, whose numbers as linears follow those
  // that every token passes. The default is that of a device that runs no experts.
  //
  // start_experts() comes behind the other linears' pruning, so that tokens go where the pruned block sends them;
  // with one stream and dense propagation before it. With calibration the windows are shared out to the experts;
  // passes: behind end_experts() they stand behind the block, and pass() is not called. Returns the numbers of their
  // tokens, nothing without calibration.
  virtual std::vector<std::int64_t> start_experts(bool passes);
  // The expert in hand, as an earlier run finished it where load_finished() came before. One stream: its inputs join
  // new statistics. pooled: of all tokens instead of those that the router sends.
  virtual void start_expert(std::int64_t expert, const NeedsOfInputs& needs, bool pooled);
  virtual void collect_expert(LinearInput input, const StatNeeds& needs, bool pooled);  // two streams
  virtual void end_expert();
  virtual void end_experts();

  virtual void end_linears() = 0;
  // The windows pass the pruned block.
  virtual void pass() = 0;
  // Of every linear of the block; those that the plan does not prune are left empty. Throws Error{kBadInput}
  // for weights that are not finite.
  virtual std::vector<LinearOutcome> outcomes() = 0;
  virtual void write(std::size_t linear) = 0;
  // All of the block's tensors are on their way; the output learns of the block when they are there.
  virtual void end_block(FinishedBlock block) = 0;
  // Until everything is written.
  virtual void finish() = 0;
};

// Throws Error{kBadInput} with the place of the first weight that is not finite.
void check_finite(ConstMatrixView weight, const std::string& tensor);

// Makes the shop of a device for one run. What `run` refers to outlives it.
using PruneShopMaker = std::function<std::unique_ptr<PruneShop>(const PruneRun& run)>;
PruneShopMaker cpu_prune_shop(const Backend& backend);

// prune() of prune.h in such a shop.
PruneResult prune(const PruneShopMaker& make_shop, const Model& model, const Plan& plan,
                  const TokenWindows& windows, const PruneOptions& options, PruneOutput& output);

}  // namespace swiftprune
