#include "swiftprune/pipeline/choices/sensitivities.h"

#include <algorithm>
#include <array>
#include <map>

#include "swiftprune/core/error.h"
#include "swiftprune/pipeline/capabilities.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/pipeline/streams/trial_streams.h"

namespace swiftprune {
namespace {

using Entries = std::vector<const PlanEntry*>;  // of one block, in the order of its linears

// Those that are allocated: pruned beside their dense weights.
void prune_linears(ProbeShop& shop, const Entries& entries) {
  std::array<bool, kNumLinearInputs> wanted{};
  for (const PlanEntry* entry : entries)
    wanted[static_cast<std::size_t>(entry->input)] |= is_allocated(*entry);
  shop.pass(wanted);
  for (int i = 0; i < kNumLinearInputs; ++i) {
    const auto input = static_cast<LinearInput>(i);
    bool started = false;
    for (std::size_t linear = 0; linear < entries.size(); ++linear) {
      const PlanEntry& entry = *entries[linear];
      if (!is_allocated(entry) || entry.input != input) continue;
      if (!std::exchange(started, true)) shop.start_input(input, entry.tensor);
      PruneTarget target;
      target.sparsity = kProbeSparsity;
      target.tensor = entry.tensor;
      shop.prune(linear, target);
    }
  }
}

// Behind the block, of each linear alone (0 where it is not allocated); then of all of them.
std::vector<double> block_changes(ProbeShop& shop, const Entries& entries) {
  shop.enter();
  prune_linears(shop, entries);
  for (std::size_t linear = 0; linear < entries.size(); ++linear) {
    if (is_allocated(*entries[linear])) shop.try_alone(linear);
  }
  shop.try_all();
  const std::vector<double> measured = shop.changes();
  std::vector<double> changes(entries.size() + 1, 0.0);
  std::size_t next = 0;
  for (std::size_t linear = 0; linear < entries.size(); ++linear) {
    if (is_allocated(*entries[linear])) changes[linear] = measured[next++];
  }
  changes.back() = measured[next];
  return changes;
}

// The rank that probes a block.
int prober_of(std::int64_t layer, const Communicator& ranks) {
  return static_cast<int>(layer % ranks.size());
}

// Each rank's values of the entries of its blocks and of its blocks, to all.
void exchange(Communicator& ranks, const Plan& plan, std::vector<double>& values, std::vector<double>& local,
              std::vector<double>& final_changes) {
  const auto of_layer = [&](std::size_t layer) { return prober_of(static_cast<std::int64_t>(layer), ranks); };
  exchange_owned(ranks, values,
                 [&](std::size_t entry) { return prober_of(plan.entries[entry].layer, ranks); });
  exchange_owned(ranks, local, of_layer);
  exchange_owned(ranks, final_changes, of_layer);
}

}  // namespace

Sensitivities measure_sensitivities(const ProbeShopMaker& make_shop, const Model& model, const Plan& plan,
                                    const TokenWindows& windows, ComputeType compute,
                                    const ProgressFn& progress, Communicator& ranks) {
  expect(windows.num_windows() > 0, "measure_sensitivities: calibration windows");
  check_without_experts(model.config(), "--allocate sensitivity",
                        "leave --allocate out: the sparsity is then the same everywhere");
  Sensitivities result{std::vector<double>(plan.entries.size(), 0.0), {}};
  if (std::none_of(plan.entries.begin(), plan.entries.end(), is_allocated)) return result;
  std::map<std::int64_t, Entries> by_layer;
  for (const PlanEntry& entry : plan.entries) by_layer[entry.layer].push_back(&entry);
  ProbeRun run{model, plan, shortened(windows, kProbeGramWindows, windows.seqlen),
               std::min(kProbeTokens, windows.seqlen), compute};
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer)
    run.probed.push_back(prober_of(layer, ranks) == ranks.rank());
  const auto shop = make_shop(run);
  std::vector<double> local;  // behind each block, with the whole of it pruned
  std::size_t next = 0;
  for (const auto& [layer, entries] : by_layer) {
    check_interrupt();
    shop->load(layer);
    result.readers.push_back(shop->readers());
    std::vector<double> changes(entries.size() + 1, 0.0);
    run.probed[static_cast<std::size_t>(layer)] ? void(changes = block_changes(*shop, entries))
                                                : shop->pass_by();
    for (std::size_t linear = 0; linear < entries.size(); ++linear) result.values[next++] = changes[linear];
    local.push_back(changes.back());
    if (progress) progress("allocate", layer + 1, model.config().num_layers());
  }
  // What the later blocks make of a block's change.
  std::vector<double> final_changes = shop->final_changes();
  exchange(ranks, plan, result.values, local, final_changes);
  for (std::size_t i = 0; i < result.values.size(); ++i) {
    const auto block = static_cast<std::size_t>(plan.entries[i].layer);
    result.values[i] *= local[block] > 0.0 ? final_changes[block] / local[block] : 0.0;
  }
  return result;
}

}  // namespace swiftprune
