// Which whole layers a model misses least. The blocks are loaded once a pass, whatever the number of
// candidates.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/pipeline/streams/trial_streams.h"

namespace swiftprune {

// Block influence, 1 - mean over the tokens of cos(x, block(x)), for each of the model's layers (ShortGPT,
// arXiv 2403.03853). progress: stage "layers".
std::vector<double> block_influence(TrialStreams& trials, std::int64_t num_layers,
                                    const ProgressFn& progress);

using LayerSet = std::set<std::int64_t>;  // that are gone

struct GreedyLayers {
  double dense_loss = 0.0;          // nats a token
  std::vector<std::int64_t> order;  // the layer that goes first, second, ...
  std::vector<double> losses;       // after each of them
};
// One layer after the other, each time the one whose loss on the windows is the lowest without it. From the
// second on only the most promising of the first round are tried (2·count + 4 of them).
GreedyLayers greedy_layers(TrialStreams& trials, std::int64_t num_layers, std::int64_t count,
                           const ProgressFn& progress);

struct ExchangedLayers {
  LayerSet layers;
  double loss = 0.0;  // without them
  std::int64_t exchanges = 0;
};
// From the best of the starts, sets of one size: a layer comes back and another one goes, as long as that lowers the
// loss. The layer whose return helps most is tried first, against every one that is still there.
ExchangedLayers exchange_layers(TrialStreams& trials, std::int64_t num_layers,
                                const std::vector<LayerSet>& starts, const ProgressFn& progress);

}  // namespace swiftprune
