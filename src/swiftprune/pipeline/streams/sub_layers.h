// The steps of a block that one_stream.h and two_streams.h share.
#pragma once

#include <cstdint>

#include "swiftprune/model/model_config.h"

namespace swiftprune {

// With a parallel residual the MLP reads the block's input, not the hidden states after attention.
inline bool reads_block_input(const ModelConfig& model, LinearInput input) {
  return model.parallel_residual && (input == LinearInput::kMlp || input == LinearInput::kMlpOutput);
}

// hidden rows -> the input of the output projection `which`.
template <class Ops, class View>
auto run_sub_layer(Ops& ops, const typename Ops::Block& block, LinearInput which, View hidden) {
  if (which == LinearInput::kMlpOutput) return ops.mlp(block, ops.input_of(block, LinearInput::kMlp, hidden));
  return ops.attention(block, ops.input_of(block, LinearInput::kAttention, hidden), hidden);
}

// What the output projection makes of all rows of the kept inner input joins the hidden states.
template <class Ops>
void add_outputs(Ops& ops, const typename Ops::Block& block, LinearInput which,
                 typename Ops::Hidden& hidden) {
  ops.for_rows([&](std::int64_t first, std::int64_t count) {
    ops.project_and_add(block, which, ops.inner_rows(first, count), ops.rows(hidden, first, count));
  });
}

}  // namespace swiftprune
