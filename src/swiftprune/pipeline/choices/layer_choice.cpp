#include "swiftprune/pipeline/choices/layer_choice.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kNone = -1;  // no candidate

// The loss without each of the candidates, beside those that are gone already.
std::map<std::int64_t, double> losses_without(TrialStreams& trials, std::int64_t num_layers,
                                              const std::vector<std::int64_t>& gone,
                                              const std::vector<std::int64_t>& candidates,
                                              const ProgressFn& progress) {
  std::map<std::int64_t, std::size_t> streams;
  trials.restart();
  for (std::int64_t layer = 0; layer < num_layers; ++layer) {
    if (std::find(gone.begin(), gone.end(), layer) != gone.end()) continue;
    trials.load_block(layer);
    for (const auto& [candidate, stream] : streams) trials.run(stream);
    if (std::find(candidates.begin(), candidates.end(), layer) != candidates.end()) {
      streams.emplace(layer, trials.fork(0));
    }
    trials.run(0);
    if (progress) progress("layers", std::ssize(gone) * num_layers + layer + 1, 0);
  }
  std::map<std::int64_t, double> losses;
  losses[kNone] = trials.loss(0);
  for (const auto& [candidate, stream] : streams) losses[candidate] = trials.loss(stream);
  return losses;
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
  expect(count < num_layers, "greedy_layers: a layer is left");
  std::vector<std::int64_t> candidates(static_cast<std::size_t>(num_layers));
  std::iota(candidates.begin(), candidates.end(), 0);
  GreedyLayers result;
  for (std::int64_t n = 0; n < std::max<std::int64_t>(count, 1); ++n) {
    const auto losses = losses_without(trials, num_layers, result.order,
                                       n < count ? candidates : std::vector<std::int64_t>{}, progress);
    if (n == 0) result.dense_loss = losses.at(kNone);
    if (n == count) break;
    std::stable_sort(candidates.begin(), candidates.end(),
                     [&](std::int64_t a, std::int64_t b) { return losses.at(a) < losses.at(b); });
    result.order.push_back(candidates.front());
    result.losses.push_back(losses.at(candidates.front()));
    candidates.erase(candidates.begin());
    if (n == 0) candidates.resize(std::min(candidates.size(), static_cast<std::size_t>(2 * count + 4)));
  }
  return result;
}

}  // namespace swiftprune
