#include "swiftprune/pipeline/choices/allocate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/core/error.h"
#include "swiftprune/pipeline/relative_change.h"
#include "swiftprune/refinement/admm.h"

namespace swiftprune {
namespace {

// -- Shares

constexpr std::array kLevels = {0.3, 0.5, 0.7, 0.85};
constexpr std::array kLogCosts = {-1.677, 0.0, 1.253, 2.167};
constexpr double kLeast = 0.05;
constexpr double kMost = 0.95;
constexpr int kGrid = 901;  // shares that are tried: steps of 0.001

double log_cost(double share) {
  const auto slope = [](std::size_t i) {
    return (kLogCosts[i + 1] - kLogCosts[i]) / (kLevels[i + 1] - kLevels[i]);
  };
  if (share > kLevels.back()) return kLogCosts.back() + 1.5 * slope(2) * (share - kLevels.back());
  std::size_t i = 0;
  while (i + 2 < kLevels.size() && share > kLevels[i + 1]) ++i;
  return kLogCosts[i] + slope(i) * (share - kLevels[i]);
}

double weighted_mean(std::span<const double> values, std::span<const double> sizes) {
  double sum = 0.0;
  double total = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    sum += values[i] * sizes[i];
    total += sizes[i];
  }
  return sum / total;
}

// Where an increasing function crosses zero, to the last bit.
template <class Function>
double crossing(double low, double high, const Function& f) {
  for (int i = 0; i < 100; ++i) {
    const double middle = 0.5 * (low + high);
    (f(middle) < 0.0 ? low : high) = middle;
  }
  return high;
}

bool is_n_m(const PlanEntry& entry) { return entry.pattern.kind == Pattern::Kind::kNofM; }

// -- Sensitivities

class Probe {
 public:
  Probe(const Model& model, const Backend& backend, const TokenWindows& windows, ComputeType compute)
      : model_(model),
        backend_(backend),
        compute_(compute),
        length_(windows.seqlen),
        tokens_(std::min(kProbeTokens, windows.seqlen)),
        ropes_(model.rope_tables(windows.seqlen)),
        refiner_(make_admm(kProbeRefiner)) {
    const std::int64_t count = std::min(kProbeGramWindows, windows.num_windows());
    hidden_ = model.embed_windows(windows, 0, count);
    changed_ = Matrix(model.config().num_layers() * tokens_, model.config().hidden_size);
  }

  // Local changes of the block's linears (0 where not pruned).
  std::vector<double> block(std::int64_t layer, const std::vector<const PlanEntry*>& entries) {
    DecoderBlock block = model_.load_block(layer);
    block.pack(backend_, compute_);
    const Matrix input = copy_of(hidden_.view().row_block(0, tokens_));
    if (layer > 0) forward(block, changed_.view().row_block(0, layer * tokens_), tokens_, nullptr);
    std::vector<Matrix> pruned = pruned_weights(block, entries);
    const Matrix dense = output(block, input);

    std::vector<double> changes(entries.size(), 0.0);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (pruned[i].empty()) continue;
      BlockLinear& linear = block.linears()[i];
      std::swap(linear.weight, pruned[i]);
      auto dense_packed = std::exchange(linear.packed, backend_.pack(linear.weight.view(), compute_));
      changes[i] = relative_change(dense.view(), output(block, input).view());
      std::swap(linear.weight, pruned[i]);
      linear.packed = std::move(dense_packed);
    }
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (!pruned[i].empty()) block.linears()[i].weight = std::move(pruned[i]);
    }
    block.pack(backend_, compute_);
    const Matrix all = output(block, input);
    std::copy_n(all.data(), all.numel(), changed_.row(layer * tokens_));
    local_.push_back(relative_change(dense.view(), all.view()));
    model_.release_block(layer);
    return changes;
  }

  // Behind each pruned block, and after the last block the change of the final normed hidden state.
  const std::vector<double>& local_changes() const { return local_; }
  std::vector<double> final_changes() {
    Matrix dense = copy_of(hidden_.view().row_block(0, tokens_));
    const FinalNorm norm(model_.checkpoint(), model_.config());
    if (norm.present()) {
      norm.apply(backend_, dense.view(), dense.view());
      norm.apply(backend_, changed_.view(), changed_.view());
    }
    std::vector<double> result;
    for (std::int64_t b = 0; b < std::ssize(local_); ++b) {
      result.push_back(relative_change(dense.view(), changed_.view().row_block(b * tokens_, tokens_)));
    }
    return result;
  }

 private:
  void forward(const DecoderBlock& block, MatrixView hidden, std::int64_t length,
               const InputObserver* observer) const {
    BlockForwardOptions options;
    options.sequence_length = length;
    options.observer = observer;
    for (std::int64_t first = 0; first < hidden.rows; first += length) {
      check_interrupt();
      block.forward(backend_, ropes_, hidden.row_block(first, length), options);
    }
  }

  Matrix output(const DecoderBlock& block, const Matrix& input) const {
    Matrix hidden = input.clone();
    forward(block, hidden.view(), tokens_, nullptr);
    return hidden;
  }

  // Runs the dense stream on; each linear's pruned weight, empty where the plan leaves it dense.
  std::vector<Matrix> pruned_weights(const DecoderBlock& block,
                                     const std::vector<const PlanEntry*>& entries) {
    std::array<std::optional<ActivationStats>, kNumLinearInputs> stats;
    for (const PlanEntry* entry : entries) {
      auto& slot = stats[static_cast<std::size_t>(entry->input)];
      if (is_allocated(*entry) && !slot)
        slot.emplace(entry->cols, StatNeeds{.energy = true, .gram = true}, 0, compute_);
    }
    const InputObserver observer = [&](LinearInput input, ConstMatrixView x) {
      auto& slot = stats[static_cast<std::size_t>(input)];
      if (slot) slot->add_window(backend_, x);
    };
    forward(block, hidden_.view(), length_, &observer);
    std::vector<Matrix> result(entries.size());
    for (std::size_t input = 0; input < stats.size(); ++input) {
      if (!stats[input]) continue;
      std::unique_ptr<PreparedGram> prepared;
      for (std::size_t i = 0; i < entries.size(); ++i) {
        const PlanEntry& entry = *entries[i];
        if (!is_allocated(entry) || static_cast<std::size_t>(entry.input) != input) continue;
        if (!prepared) {
          stats[input]->finish(entry.tensor);
          prepared = refiner_->prepare(stats[input]->view(), backend_, entry.tensor);
        }
        RefineTask task;
        task.weight = block.linears()[i].weight.view();
        task.target.sparsity = kProbeSparsity;
        task.target.tensor = entry.tensor;
        task.measure_error = false;
        result[i] = refiner_->refine(task, *prepared, backend_).weight;
      }
      stats[input].reset();
    }
    return result;
  }

  const Model& model_;
  const Backend& backend_;
  ComputeType compute_;
  std::int64_t length_, tokens_;
  std::vector<RopeTable> ropes_;
  std::unique_ptr<Refiner> refiner_;
  Matrix hidden_;              // [windows·seqlen, hidden] of the dense model
  Matrix changed_;             // [layers·tokens, hidden]: part b has only block b pruned
  std::vector<double> local_;  // change behind each pruned block
};

}  // namespace

std::vector<double> allocate_shares(std::span<const double> sensitivities, std::span<const double> sizes,
                                    double sparsity) {
  expect(sensitivities.size() == sizes.size() && !sizes.empty(), "allocate_shares: a size for each linear");
  const double least = std::min(kLeast, sparsity);
  const double most = std::max(kMost, sparsity);
  double mean_size = 0.0;
  for (const double size : sizes) mean_size += size / static_cast<double>(sizes.size());
  std::array<double, kGrid> share{};
  std::array<double, kGrid> cost{};
  for (std::size_t g = 0; g < share.size(); ++g) {
    share[g] = least + (most - least) * static_cast<double>(g) / (kGrid - 1);
    cost[g] = std::exp(log_cost(share[g]));
  }
  std::vector<double> result(sizes.size());
  // Each linear's best share at the price exp(log_price) of a share of the mean size.
  const auto best_at = [&](double log_price) {
    for (std::size_t u = 0; u < result.size(); ++u) {
      const double price = std::exp(log_price) * sizes[u] / mean_size;
      std::size_t best = 0;
      double lowest = std::numeric_limits<double>::infinity();
      for (std::size_t g = 0; g < share.size(); ++g) {
        const double value = sensitivities[u] * cost[g] - price * share[g];
        if (value < lowest) {
          lowest = value;
          best = g;
        }
      }
      result[u] = share[best];
    }
    return weighted_mean(result, sizes) - sparsity;
  };
  best_at(crossing(-60.0, 60.0, best_at));
  // The grid leaves a rest: one shift of all shares makes the mean exact.
  const std::vector<double> shares = result;
  const auto shifted = [&](double by) {
    for (std::size_t u = 0; u < result.size(); ++u) result[u] = std::clamp(shares[u] + by, least, most);
    return weighted_mean(result, sizes) - sparsity;
  };
  shifted(crossing(-1.0, 1.0, shifted));
  return result;
}

std::vector<double> measure_sensitivities(const Model& model, const Backend& backend, const Plan& plan,
                                          const TokenWindows& windows, ComputeType compute,
                                          const ProgressFn& progress) {
  expect(windows.num_windows() > 0, "measure_sensitivities: calibration windows");
  std::map<std::int64_t, std::vector<const PlanEntry*>> entries;
  for (const PlanEntry& entry : plan.entries) entries[entry.layer].push_back(&entry);
  Probe probe(model, backend, windows, compute);
  std::vector<double> result;
  for (const auto& [layer, of_block] : entries) {
    const std::vector<double> changes = probe.block(layer, of_block);
    result.insert(result.end(), changes.begin(), changes.end());
    if (progress) progress("allocate", layer + 1, model.config().num_layers());
  }
  return sensitivities_of(plan, result, probe.local_changes(), probe.final_changes());
}

bool is_allocated(const PlanEntry& entry) {
  return entry.prune && !entry.fixed && (!is_n_m(entry) || entry.pattern.m >= kLeastAllocatedGroup);
}

std::vector<double> sensitivities_of(const Plan& plan, std::span<const double> changes,
                                     std::span<const double> local, std::span<const double> final_changes) {
  expect(changes.size() == plan.entries.size() && local.size() == final_changes.size(),
         "sensitivities_of: a change for each entry");
  std::vector<double> result(changes.begin(), changes.end());
  for (std::size_t i = 0; i < result.size(); ++i) {
    const auto b = static_cast<std::size_t>(plan.entries[i].layer);
    result[i] *= local[b] > 0.0 ? final_changes[b] / local[b] : 0.0;
  }
  return result;
}

std::vector<std::int64_t> allocate_group_counts(std::span<const double> sensitivities,
                                                std::span<const double> sizes, std::int64_t n,
                                                std::int64_t m) {
  expect(sensitivities.size() == sizes.size() && !sizes.empty(),
         "allocate_group_counts: a size for each linear");
  const std::int64_t least = std::max<std::int64_t>(1, n - m / 4);
  const std::int64_t most = std::min(m - 1, n + m / 4);
  const auto cost = [&](std::size_t u, std::int64_t kept) {
    return sensitivities[u] * std::exp(log_cost(1.0 - static_cast<double>(kept) / static_cast<double>(m)));
  };
  // From the most weights kept downwards: the step that costs least for the weights that it saves, as long as
  // it leaves the mean at n or above. Between such steps φ is all but convex, so single steps find the
  // cheapest way.
  std::vector<std::int64_t> kept(sizes.size(), most);
  double surplus = 0.0;
  for (const double size : sizes) surplus += size * static_cast<double>(most - n);
  const double slack = 1e-9 * surplus;
  while (true) {
    std::optional<std::size_t> best;
    double lowest = std::numeric_limits<double>::infinity();
    for (std::size_t u = 0; u < sizes.size(); ++u) {
      if (kept[u] == least || sizes[u] > surplus + slack) continue;
      const double price = (cost(u, kept[u] - 1) - cost(u, kept[u])) / sizes[u];
      if (price < lowest) {
        lowest = price;
        best = u;
      }
    }
    if (!best) return kept;
    --kept[*best];
    surplus -= sizes[*best];
  }
}

void allocate_by_sensitivity(std::span<const double> sensitivities, Plan& plan) {
  expect(sensitivities.size() == plan.entries.size(), "allocate_by_sensitivity: one for each entry");
  // Groups of N:M share among themselves, all other patterns together.
  std::map<std::pair<std::int64_t, std::int64_t>, std::vector<std::size_t>> groups;
  for (std::size_t i = 0; i < plan.entries.size(); ++i) {
    const PlanEntry& entry = plan.entries[i];
    if (!is_allocated(entry)) continue;
    groups[is_n_m(entry) ? std::pair(entry.pattern.n, entry.pattern.m)
                         : std::pair<std::int64_t, std::int64_t>()]
        .push_back(i);
  }
  for (const auto& [n_m, members] : groups) {
    std::vector<double> h;
    std::vector<double> sizes;
    std::vector<double> asked;
    for (const std::size_t i : members) {
      h.push_back(std::max(sensitivities[i], 1e-12));  // a linear without effect still has a price
      sizes.push_back(plan.entries[i].num_weights());
      asked.push_back(plan.entries[i].sparsity);
    }
    if (n_m.second > 0) {
      const std::vector<std::int64_t> kept = allocate_group_counts(h, sizes, n_m.first, n_m.second);
      for (std::size_t u = 0; u < members.size(); ++u) plan.entries[members[u]].pattern.n = kept[u];
      continue;
    }
    const std::vector<double> shares = allocate_shares(h, sizes, weighted_mean(asked, sizes));
    for (std::size_t u = 0; u < members.size(); ++u) {
      PlanEntry& entry = plan.entries[members[u]];
      entry.sparsity = shares[u];
      entry.row_budgets = entry.pattern.kind == Pattern::Kind::kRow;
    }
    plan.rounding = PruneTarget::Rounding::kExactTotal;
  }
}

}  // namespace swiftprune
