#include "swiftprune/pipeline/choices/allocate_bits.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace swiftprune {
namespace {

constexpr int kShareSteps = 100;  // shares that are tried: steps of 0.01
constexpr int kMostSteps = 95;
constexpr double kSlack = 1e-9;

// Of the codes alone, without zeros.
double grid_cost(int bits) { return bits == 8 ? 0.0007 : bits == 4 ? 0.21 : 0.85; }

bool is_counted(const PlanEntry& entry) { return entry.prune && entry.grid.has_value(); }
bool is_free(const PlanEntry& entry) { return is_counted(entry) && !entry.fixed; }

// Bits of the whole linear.
double packed_size(const PlanEntry& entry, const QuantGrid& grid, double sparsity) {
  const auto kept = std::llround((1.0 - sparsity) * entry.num_weights());
  return 8.0 * grid_bytes(grid, entry.rows, entry.cols, kept);
}

struct Level {
  QuantGrid grid;
  double sparsity = 0.0;
  double size = 0.0;  // bits of the linear
  double cost = 0.0;  // h·ψ
};

struct Unit {
  std::size_t entry = 0;
  std::vector<Level> levels;
};

std::vector<Level> levels_of(const PlanEntry& entry, const BitsGoal& goal, double sensitivity) {
  std::vector<Level> levels;
  for (const int bits : goal.bits) {
    QuantGrid grid = *entry.grid;
    grid.bits = bits;
    const double dense = packed_size(entry, grid, 0.0);
    for (int step = 0; step <= (goal.zeros ? kMostSteps : 0); ++step) {
      const double sparsity = static_cast<double>(step) / kShareSteps;
      const double size = packed_size(entry, grid, sparsity);
      // Fewer zeros than a bitmap is worth save nothing.
      if (step > 0 && size >= dense) continue;
      levels.push_back({grid, sparsity, size, sensitivity * level_cost(bits, sparsity)});
    }
  }
  return levels;
}

std::vector<Unit> units_of(std::span<const double> sensitivities, const BitsGoal& goal, const Plan& plan) {
  std::vector<Unit> units;
  for (std::size_t i = 0; i < plan.entries.size(); ++i) {
    if (!is_free(plan.entries[i])) continue;
    const double h = sensitivities.empty() ? 1.0 : std::max(sensitivities[i], 1e-12);  // none is free
    units.push_back({i, levels_of(plan.entries[i], goal, h)});
  }
  return units;
}

struct Sizes {
  double weights = 0.0;  // of all that are counted
  double fixed = 0.0;    // bits of those that are not chosen
};

Sizes sizes_of(const Plan& plan) {
  Sizes sizes;
  for (const PlanEntry& entry : plan.entries) {
    if (!is_counted(entry)) continue;
    sizes.weights += entry.num_weights();
    if (!is_free(entry)) sizes.fixed += packed_size(entry, *entry.grid, entry.asked_sparsity());
  }
  return sizes;
}

using Choice = std::vector<const Level*>;

// Each unit's cheapest level at a price of a bit, and the size of all; of equally cheap ones the smaller.
double choose_at(double price, const std::vector<Unit>& units, Choice& choice) {
  double size = 0.0;
  for (std::size_t u = 0; u < units.size(); ++u) {
    double lowest = std::numeric_limits<double>::infinity();
    for (const Level& level : units[u].levels) {
      const double value = level.cost + price * level.size;
      if (value < lowest || (value == lowest && level.size < choice[u]->size)) {
        lowest = value;
        choice[u] = &level;
      }
    }
    size += choice[u]->size;
  }
  return size;
}

// The step that gains most for its size and fits into the room, taken; false when none does.
bool take_best_step(const std::vector<Unit>& units, Choice& choice, double& room) {
  std::optional<std::size_t> best;
  const Level* to = nullptr;
  double most = 0.0;
  for (std::size_t u = 0; u < units.size(); ++u) {
    for (const Level& level : units[u].levels) {
      const double more = level.size - choice[u]->size, gain = choice[u]->cost - level.cost;
      if (gain <= 0.0 || more > room) continue;
      const double worth = more > 0.0 ? gain / more : std::numeric_limits<double>::infinity();
      if (worth > most) {
        most = worth;
        best = u;
        to = &level;
      }
    }
  }
  if (!best) return false;
  room -= to->size - choice[*best]->size;
  choice[*best] = to;
  return true;
}

}  // namespace

// Measured on single linears (docs/method.md). Small weights are zeros of a coarse grid anyway, so that the first zeros
// cost nothing.
double level_cost(int bits, double sparsity) {
  const double zeros = sparsity > 0.0 ? std::exp(allocated_log_cost(sparsity)) : 0.0;
  const double of_grid = grid_cost(bits);
  return std::max(of_grid, zeros + of_grid * (1.0 - 0.5 * sparsity));
}

double packed_bits(const Plan& plan) {
  double size = 0.0, weights = 0.0;
  for (const PlanEntry& entry : plan.entries) {
    if (!is_counted(entry)) continue;
    size += packed_size(entry, *entry.grid, entry.asked_sparsity());
    weights += entry.num_weights();
  }
  return weights > 0.0 ? size / weights : 0.0;
}

void check_bits(const BitsGoal& goal, const Plan& plan) {
  const Sizes sizes = sizes_of(plan);
  const std::vector<Unit> units = units_of({}, goal, plan);
  if (units.empty()) {
    bad_usage("--bits: found {}, but no linear is left to choose bits for: all are skipped or overridden",
              goal.mean);
  }
  double least = sizes.fixed, most = sizes.fixed;
  for (const Unit& unit : units) {
    const auto [smallest, largest] = std::ranges::minmax_element(unit.levels, {}, &Level::size);
    least += smallest->size;
    most += largest->size;
  }
  least /= sizes.weights;
  most /= sizes.weights;
  constexpr double kTooMany = 1.02;
  if (goal.mean >= least && goal.mean <= kTooMany * most) return;
  // Rounded so that what is said can be asked for.
  const double nearest =
      goal.mean < least ? std::ceil(1000.0 * least) / 1000.0 : std::floor(1000.0 * most) / 1000.0;
  const int bits =
      goal.mean < least ? *std::ranges::min_element(goal.bits) : *std::ranges::max_element(goal.bits);
  const bool too_few = goal.mean < least;
  bad_usage("--bits: found {}, expected at {} {:.3f}, which int{}{} takes{}", goal.mean,
            too_few ? "least" : "most", nearest, bits,
            too_few && goal.zeros ? fmt::format(" with {} % zeros", 100 * kMostSteps / kShareSteps) : "",
            too_few && !goal.zeros ? "; swiftprune prune --bits makes zeros as well" : "");
}

void allocate_bits(std::span<const double> sensitivities, const BitsGoal& goal, Plan& plan) {
  expect(sensitivities.size() == plan.entries.size(), "allocate_bits: a sensitivity for each entry");
  check_bits(goal, plan);
  const Sizes sizes = sizes_of(plan);
  const std::vector<Unit> units = units_of(sensitivities, goal, plan);
  const double all = goal.mean * sizes.weights * (1.0 + kSlack) - sizes.fixed;
  Choice choice(units.size());
  for (std::size_t u = 0; u < units.size(); ++u) choice[u] = &units[u].levels.front();
  double low = -120.0, high = 120.0;  // logarithms of the price of a bit: too much is taken, not too much
  for (int i = 0; i < 100; ++i) {
    const double middle = 0.5 * (low + high);
    (choose_at(std::exp(middle), units, choice) > all ? low : high) = middle;
  }
  double room = all - choose_at(std::exp(high), units, choice);
  while (take_best_step(units, choice, room)) {
  }
  for (std::size_t u = 0; u < units.size(); ++u) {
    PlanEntry& entry = plan.entries[units[u].entry];
    entry.grid = choice[u]->grid;
    entry.sparsity = choice[u]->sparsity;
    entry.row_budgets = entry.sparsity > 0.0 && entry.pattern.kind == Pattern::Kind::kRow;
  }
  plan.rounding = PruneTarget::Rounding::kExactTotal;
}

}  // namespace swiftprune
