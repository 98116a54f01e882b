// Which whole layers a model misses least. The blocks are loaded once a pass, whatever the number of
// candidates.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/model.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

struct LayerChoiceOptions {
  ComputeType compute = ComputeType::kF32;
  ProgressFn progress = [](std::string_view, std::int64_t, std::int64_t) {};  // stage "layers"
};

// Block influence, 1 - mean over the tokens of cos(x, block(x)), for each layer (ShortGPT, arXiv 2403.03853).
std::vector<double> block_influence(const Model& model, const Backend& backend, const TokenWindows& windows,
                                    const LayerChoiceOptions& options);

struct GreedyLayers {
  double dense_loss = 0.0;          // nats a token
  std::vector<std::int64_t> order;  // the layer that goes first, second, ...
  std::vector<double> losses;       // after each of them
};
// One layer after the other, each time the one whose loss on the windows is the lowest without it. From the
// second on only the most promising of the first round are tried (2·count + 4 of them).
GreedyLayers greedy_layers(const Model& model, const Backend& backend, const TokenWindows& windows,
                           std::int64_t count, const LayerChoiceOptions& options);

// Mean next-token loss of the hidden states [windows·seqlen, hidden] that come out of the last block.
double loss_of(const Model& model, const Backend& backend, const ModelHead& head, const TokenWindows& windows,
               ConstMatrixView hidden);

// The first `length` tokens of the first `count` windows: enough for choices that only compare.
TokenWindows shortened(const TokenWindows& windows, std::int64_t count, std::int64_t length);

}  // namespace swiftprune
