// Orders of the inputs of output projections that suit N:M patterns (Plan::permute, model/channel_fold.h), of the block
// that a shop on the processor has in hand. The block computes in the model's own order: a projection is reordered while
// it is pruned, and everything that has an order once more when it is written.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <vector>

#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/model/channel_fold.h"
#include "swiftprune/model/decoder_block.h"
#include "swiftprune/pipeline/drivers/prune_shop.h"

namespace swiftprune {

class ChannelOrders {
 public:
  ChannelOrders(const PruneRun& run, const Backend& backend, const Selector& selector)
      : run_(run), backend_(backend), selector_(selector) {}

  // Of a new block. finished: what an earlier run wrote of it, or null.
  void start_block(std::int64_t layer, const FinishedBlock* finished = nullptr);

  // Before linears that read `input` are pruned. Chooses an order of their inputs where the plan wants one, and keeps it
  // if the error of the plan's own selection falls by it; projection and statistics then stand in that order.
  void start_input(DecoderBlock& block, LinearInput input, std::optional<ActivationStats>& stats);
  // Behind their pruning: the projection stands in the model's order again.
  void end_input(DecoderBlock& block, LinearInput input);

  // Of the linear's inputs, as the file has them; empty: the model's own order.
  std::vector<std::int64_t> of_inputs(std::size_t linear) const;
  // Has the file another order of the linear's rows or columns than the model?
  bool changes(std::size_t linear) const { return moves_rows(linear) || !of_inputs(linear).empty(); }
  // weight [O, I] and bias [O], either may be empty, in the model's order become what the file holds; and back.
  void to_file(std::size_t linear, MatrixView weight, std::span<float> bias) const;
  void from_file(std::size_t linear, MatrixView weight) const;
  bool moves_rows(std::size_t linear) const;

 private:
  struct Chosen {
    ChannelFold fold;
    std::vector<std::int64_t> channels;
  };
  const PlanEntry* entry_of(std::size_t linear) const;
  double selection_error(const PlanEntry& entry, ConstMatrixView weight, const LayerStats& stats) const;
  std::vector<std::int64_t> choose(const ChannelFold& fold, const PlanEntry& entry, ConstMatrixView weight,
                                   const LayerStats& stats) const;

  const PruneRun& run_;
  const Backend& backend_;
  const Selector& selector_;
  std::int64_t layer_ = -1;
  std::vector<Chosen> chosen_;
};

// Throws Error{kUsage} where Plan::permute asks for what the model's blocks or the plan's patterns do not let be done.
void check_permute(const Plan& plan, const ModelConfig& model);

}  // namespace swiftprune
