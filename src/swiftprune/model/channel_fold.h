// Inputs of an output projection that can change their places without changing what the block computes, because the
// rows that make them change theirs: down's inputs are rows of gate and up, and o's inputs are rows of v, head by head.
// Query heads that share a value head take one order together.
//
// Orders: position p holds what was input order[p].
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/model/model_config.h"
#include "swiftprune/tensor/matrix.h"
#include "swiftprune/tensor/reorder.h"

namespace swiftprune {

struct ChannelFold {
  std::int64_t size = 0;    // inputs that can change places among themselves: a head's, or all of the MLP's
  std::int64_t shared = 1;  // consecutive sets of so many inputs that take one order
  struct Source {
    std::size_t linear = 0;          // of linears_of(block)
    std::vector<std::int64_t> rows;  // rows[c] makes channel c; channels: a set's of each that share an order
  };
  std::vector<Source> sources = {};
  std::size_t linear = 0;  // the output projection

  bool moves_rows_of(std::size_t other) const;

  std::int64_t num_channels() const { return std::ssize(sources.front().rows); }
  // The order [I] of the projection's inputs from one of the channels, and back.
  std::vector<std::int64_t> of_inputs(std::span<const std::int64_t> channels) const;
  std::vector<std::int64_t> of_channels(std::span<const std::int64_t> inputs) const;
};

// output: kAttentionOutput or kMlpOutput. Nothing where the inputs are bound to their places; `why` then says by what.
std::optional<ChannelFold> channel_fold(const ModelConfig& model, const BlockConfig& block,
                                        LinearInput output, std::string_view* why = nullptr);

// Does the order [I] keep each input in its set, and sets that share an order alike?
bool fits(const ChannelFold& fold, std::span<const std::int64_t> inputs);

// The order [rows] of the linear's rows that goes with an order of its channels; rows that make no channel stay.
std::vector<std::int64_t> order_of_rows(const ChannelFold::Source& source, std::int64_t rows,
                                        std::span<const std::int64_t> channels);

// Weight [O, I] and bias [O] of linear number `linear` of the block, either may be empty, in the order of `channels`; a
// linear that is neither the projection nor a source stays as it is. inputs: I
template <class T>
void reorder_linear(const ChannelFold& fold, std::span<const std::int64_t> channels, std::size_t linear,
                    std::int64_t inputs, std::span<T> weight, std::span<T> bias) {
  if (linear == fold.linear && !weight.empty()) reorder_columns(weight, fold.of_inputs(channels));
  for (const ChannelFold::Source& source : fold.sources) {
    if (source.linear != linear) continue;
    const std::int64_t rows = weight.empty() ? std::ssize(bias) : std::ssize(weight) / inputs;
    const std::vector<std::int64_t> order = order_of_rows(source, rows, channels);
    if (!weight.empty()) reorder_rows(weight, inputs, order);
    if (!bias.empty()) reorder_rows(bias, 1, order);
  }
}

// weight: contiguous
inline void reorder_linear(const ChannelFold& fold, std::span<const std::int64_t> channels,
                           std::size_t linear, MatrixView weight, std::span<float> bias) {
  expect(weight.stride == weight.cols, "reorder_linear: contiguous rows");
  reorder_linear<float>(fold, channels, linear, weight.cols,
                        {weight.data, static_cast<std::size_t>(weight.numel())}, bias);
}

}  // namespace swiftprune
