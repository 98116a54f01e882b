#include "swiftprune/pipeline/choices/layer_choice.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

// The loss without each of the sets, in their order. What all of them lack is left out of stream 0, from which each goes
// its own way at the first layer that is missing in it alone.
std::vector<double> losses_without(TrialStreams& trials, std::int64_t num_layers,
                                   const std::vector<LayerSet>& sets, const ProgressFn& progress) {
  LayerSet common = sets.front();
  for (const LayerSet& set : sets) {
    LayerSet both;
    std::set_intersection(common.begin(), common.end(), set.begin(), set.end(),
                          std::inserter(both, both.end()));
    common = std::move(both);
  }
  std::vector<std::size_t> streams(sets.size(), 0);
  trials.restart();
  for (std::int64_t layer = 0; layer < num_layers; ++layer) {
    if (common.contains(layer)) continue;
    trials.load_block(layer);
    for (std::size_t i = 0; i < sets.size(); ++i) {
      if (streams[i] != 0) {
        if (!sets[i].contains(layer)) trials.run(streams[i]);
      } else if (sets[i].contains(layer)) {
        streams[i] = trials.fork(0);
      }
    }
    trials.run(0);
    if (progress) progress("layers", layer + 1, num_layers);
  }
  std::vector<double> losses;
  for (const std::size_t stream : streams) losses.push_back(trials.loss(stream));
  return losses;
}

LayerSet with(LayerSet set, std::int64_t layer) {
  set.insert(layer);
  return set;
}
LayerSet without(LayerSet set, std::int64_t layer) {
  set.erase(layer);
  return set;
}

std::vector<std::size_t> rising_order(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  return order;
}

}  // namespace

std::vector<double> block_influence(TrialStreams& trials, std::int64_t num_layers,
                                    const ProgressFn& progress) {
  std::vector<double> influence;
  trials.restart();
  for (std::int64_t layer = 0; layer < num_layers; ++layer) {
    trials.load_block(layer);
    const std::size_t before = trials.fork(0);
    trials.run(0);
    influence.push_back(1.0 - trials.mean_cosine(before, 0));
    if (progress) progress("layers", layer + 1, num_layers);
  }
  return influence;
}

GreedyLayers greedy_layers(TrialStreams& trials, std::int64_t num_layers, std::int64_t count,
                           const ProgressFn& progress) {
  expect(count > 0 && count < num_layers, "greedy_layers: a layer goes and one is left");
  std::vector<std::int64_t> candidates(static_cast<std::size_t>(num_layers));
  std::iota(candidates.begin(), candidates.end(), 0);
  GreedyLayers result;
  LayerSet gone;
  for (std::int64_t n = 0; n < count; ++n) {
    std::vector<LayerSet> sets;
    for (const std::int64_t candidate : candidates) sets.push_back(with(gone, candidate));
    if (n == 0) sets.emplace_back();
    std::vector<double> losses = losses_without(trials, num_layers, sets, progress);
    if (n == 0) {
      result.dense_loss = losses.back();
      losses.pop_back();
    }
    std::vector<std::int64_t> sorted;
    const std::vector<std::size_t> order = rising_order(losses);
    for (const std::size_t i : order) sorted.push_back(candidates[i]);
    gone.insert(sorted.front());
    result.order.push_back(sorted.front());
    result.losses.push_back(losses[order.front()]);
    candidates.assign(sorted.begin() + 1, sorted.end());
    if (n == 0) candidates.resize(std::min(candidates.size(), static_cast<std::size_t>(2 * count + 4)));
  }
  return result;
}

ExchangedLayers exchange_layers(TrialStreams& trials, std::int64_t num_layers,
                                const std::vector<LayerSet>& starts, const ProgressFn& progress) {
  const std::vector<double> first = losses_without(trials, num_layers, starts, progress);
  const std::size_t start = rising_order(first).front();
  ExchangedLayers best{starts[start], first[start], 0};
  const auto improve = [&] {
    const std::vector<std::int64_t> gone(best.layers.begin(), best.layers.end());
    std::vector<LayerSet> fewer;
    for (const std::int64_t layer : gone) fewer.push_back(without(best.layers, layer));
    for (const std::size_t i : rising_order(losses_without(trials, num_layers, fewer, progress))) {
      std::vector<LayerSet> sets;
      for (std::int64_t layer = 0; layer < num_layers; ++layer)
        if (!best.layers.contains(layer)) sets.push_back(with(fewer[i], layer));
      const std::vector<double> losses = losses_without(trials, num_layers, sets, progress);
      const std::size_t lowest = rising_order(losses).front();
      if (losses[lowest] >= best.loss) continue;
      best = {sets[lowest], losses[lowest], best.exchanges + 1};
      return true;
    }
    return false;
  };
  while (improve()) {
  }
  return best;
}

}  // namespace swiftprune
