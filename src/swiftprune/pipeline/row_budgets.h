// How many weights each row of an unstructured linear loses: rows whose outputs matter little to the model
// lose more, the total stays (docs/method.md, "Rows").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/model/model.h"
#include "swiftprune/scoring/layer_stats.h"

namespace swiftprune {

// What a change of one output of a linear does to the model, up to a factor common to the linear's rows:
//   query   root of the energy of the key row that it meets      key   root of the sum over its query heads
//   value   norm of the columns of the output projection that read it
//   gate    |down column| · rms(up · act'(gate))                 up    |down column| · rms(act(gate))
//   output projections: the norms of what reads that channel of the hidden state later, and of the final norm
// (the two of a rotary pair share their mean).
class RowEffects {
 public:
  // Reads every block's weights once, for the output projections.
  RowEffects(const Model& model, const Backend& backend);

  // r [O] of each linear that reads `input`, in the order of DecoderBlock::linears(). dense: the block's
  // weights before pruning. stats: of that input; energies for kAttention, a sample for kMlp, nothing else.
  std::vector<std::vector<float>> of(const DecoderBlock& dense, std::int64_t layer, LinearInput input,
                                     const LayerStats& stats) const;

 private:
  std::vector<std::vector<float>> of_attention(const DecoderBlock& dense, const LayerStats& stats) const;
  std::vector<std::vector<float>> of_mlp(const DecoderBlock& dense, const LayerStats& stats) const;

  const Model& model_;
  const Backend& backend_;
  // [layers][hidden] behind attention and behind the MLP of each block
  std::vector<std::vector<float>> attention_output_, mlp_output_;
};

// Weights to prune in each row, Σ = round(O·I·sparsity): halfway between the same share of every row and one
// threshold on |W_ij|·√e_j·r_i for the linear, within a quarter of the inputs around the mean, rounded by
// error diffusion.
std::vector<std::int64_t> row_budgets(ConstMatrixView weight, std::span<const double> energy,
                                      std::span<const float> effects, double sparsity);

}  // namespace swiftprune
