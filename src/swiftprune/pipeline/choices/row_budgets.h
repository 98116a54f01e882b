// How many weights each row of an unstructured linear loses: rows whose outputs matter little to the model
// lose more, the total stays (docs/method.md, "Rows").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/model/model.h"
#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/selection/pattern.h"

namespace swiftprune {

// What a change of one output of a linear does to the model, up to a factor common to the linear's rows:
//   query   root of the energy of the key row that it meets      key   root of the sum over its query heads
//   value   norm of the columns of the output projection that read it
//   gate    |down column| · rms(up · act'(gate))                 up    |down column| · rms(act(gate))
//   output projections: the norms of what reads that channel of the hidden state later, and of the final norm
// (the two of a rotary pair share their mean).
class RowEffects {
 public:
  // Σ_i W_ij² over the linears that read a block's two normed inputs: [hidden] each.
  struct Readers {
    std::vector<double> attention, mlp;
  };
  // Reads every block's weights once, for the output projections.
  explicit RowEffects(const Model& model);
  // From what was measured elsewhere: one for each block.
  RowEffects(const Model& model, std::span<const Readers> readers);

  // r [O] of each linear that reads `input`, in the order of DecoderBlock::linears(). dense: the block's
  // weights before pruning. stats: of that input; energies for kAttention, a sample for kMlp, nothing else.
  std::vector<std::vector<float>> of(const Backend& backend, const DecoderBlock& dense, std::int64_t layer,
                                     LinearInput input, const LayerStats& stats) const;

  // The same from sums over weights and tokens. outputs: energy of each row's output, by linear; columns
  // [heads·head size]: Σ_i W_ij² of the output projection.
  std::vector<std::vector<float>> of_attention(std::int64_t layer,
                                               std::span<const std::vector<double>> outputs,
                                               std::span<const double> columns) const;
  // gate, up [intermediate]: means over tokens of (up · act'(gate))² and act(gate)²; columns: of the down
  // projection, its rows times mlp_output_gains().
  std::vector<std::vector<float>> of_mlp(std::int64_t layer, std::span<const double> gate,
                                         std::span<const double> up, std::span<const double> columns) const;
  // Of each output projection that reads `input`.
  std::vector<std::vector<float>> of_outputs(std::int64_t layer, LinearInput input) const;
  // What a row of a mixer's or a gated head's projections does is not known here: all of a linear that reads the block's
  // input count alike.
  static bool rows_are_alike(const BlockConfig& block) {
    return block.has_state() || block.gated_heads || block.keys_are_values || block.takes_keys();
  }
  // What the norm behind the MLP multiplies its outputs with; empty without one.
  std::vector<float> mlp_output_gains(std::int64_t layer) const;

 private:
  const std::vector<float>& of_output(std::int64_t layer, LinearInput input) const;

  const Model& model_;
  // [layers][hidden] behind attention and behind the MLP of each block
  std::vector<std::vector<float>> attention_output_, mlp_output_;
};

RowEffects::Readers readers_of(const DecoderBlock& block);

// act(x ± kSlopeStep) give the slope of any activation.
inline constexpr float kSlopeStep = 1e-2f;

// Weights to prune in each row, Σ = round(O·I·sparsity): halfway between the same share of every row and one
// threshold on |W_ij|·√e_j·r_i for the linear, within a quarter of the inputs around the mean, rounded by
// error diffusion. In two steps, of which only the first reads weights:
// what the threshold prunes at,
PruneTarget row_threshold_target(double sparsity);
// what it gives alone [O], and
std::vector<std::int64_t> row_threshold_counts(ConstMatrixView weight, std::span<const double> energy,
                                               std::span<const float> effects, const PruneTarget& target);
// the budgets.
std::vector<std::int64_t> row_budgets(std::span<const std::int64_t> by_threshold, std::int64_t inputs,
                                      std::int64_t total);

}  // namespace swiftprune
