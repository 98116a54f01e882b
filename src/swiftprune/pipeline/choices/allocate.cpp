#include "swiftprune/pipeline/choices/allocate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

constexpr std::array kLevels = {0.3, 0.5, 0.7, 0.85};
constexpr std::array kLogCosts = {-1.677, 0.0, 1.253, 2.167};
constexpr double kLeast = 0.05;
constexpr double kMostOfTensor = 0.95;
constexpr int kGrid = 901;  // shares that are tried: steps of 0.001

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

}  // namespace

double allocated_log_cost(double share) {
  const auto slope = [](std::size_t i) {
    return (kLogCosts[i + 1] - kLogCosts[i]) / (kLevels[i + 1] - kLevels[i]);
  };
  if (share > kLevels.back()) return kLogCosts.back() + 1.5 * slope(2) * (share - kLevels.back());
  std::size_t i = 0;
  while (i + 2 < kLevels.size() && share > kLevels[i + 1]) ++i;
  return kLogCosts[i] + slope(i) * (share - kLevels[i]);
}

std::vector<double> allocate_shares(std::span<const double> sensitivities, std::span<const double> sizes,
                                    double sparsity) {
  expect(sensitivities.size() == sizes.size() && !sizes.empty(), "allocate_shares: a size for each linear");
  const double least = std::min(kLeast, sparsity);
  const double most = std::max(kMostOfTensor, sparsity);
  double mean_size = 0.0;
  for (const double size : sizes) mean_size += size / static_cast<double>(sizes.size());
  std::array<double, kGrid> share{};
  std::array<double, kGrid> cost{};
  for (std::size_t g = 0; g < share.size(); ++g) {
    share[g] = least + (most - least) * static_cast<double>(g) / (kGrid - 1);
    cost[g] = std::exp(allocated_log_cost(share[g]));
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

bool is_allocated(const PlanEntry& entry) {
  return entry.prune && !entry.fixed && (!is_n_m(entry) || entry.pattern.m >= kLeastAllocatedGroup);
}

std::vector<std::int64_t> allocate_group_counts(std::span<const double> sensitivities,
                                                std::span<const double> sizes, std::int64_t n,
                                                std::int64_t m) {
  expect(sensitivities.size() == sizes.size() && !sizes.empty(),
         "allocate_group_counts: a size for each linear");
  const std::int64_t least = std::max<std::int64_t>(1, n - m / 4);
  const std::int64_t most = std::min(m - 1, n + m / 4);
  const auto cost = [&](std::size_t u, std::int64_t kept) {
    return sensitivities[u] *
           std::exp(allocated_log_cost(1.0 - static_cast<double>(kept) / static_cast<double>(m)));
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
