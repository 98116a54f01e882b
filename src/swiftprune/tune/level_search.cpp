#include "swiftprune/tune/level_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

// Variances of θ relative to the prior's mean: of the unit alone, of its neighbourhood in depth, of its kind, and of all
// units alike. Of a few choices the one under which 50 plans of SmolLM2 at 70 % were likeliest, as were the noises.
constexpr double kOwnVariance = 0.3, kDepthVariance = 0.1, kKindVariance = 0.1, kCommonVariance = 0.5;
constexpr double kDepthLength = 3.0;  // layers over which neighbours behave alike
// Noise of an observation: what the sum over units does not explain of a change.
constexpr double kRelativeNoise = 0.02, kLeastNoise = 1e-3;
constexpr double kBoldness = 0.5;      // of draws, in standard deviations of the posterior
constexpr double kLeastWeight = 0.02;  // of the prior's mean: no linear is free
constexpr int kReach = 2;              // steps of a unit in one mutation
constexpr double kSwitchShares[] = {1.0 / 64, 1.0 / 16, 1.0 / 8, 1.0 / 4, 1.0 / 2};  // of the units
constexpr double kAimedShare = 0.99;  // of a limit of divergence
constexpr double kSlack = 1e-9;       // of sizes

}  // namespace

std::vector<std::size_t> useful_levels(std::span<const SearchLevel> levels) {
  std::vector<std::size_t> order(levels.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return levels[a].size != levels[b].size ? levels[a].size < levels[b].size
                                            : levels[a].error < levels[b].error;
  });
  // From the smallest on, each has to be better than all before it.
  std::vector<std::size_t> useful;
  for (const std::size_t l : order) {
    if (useful.empty() || levels[l].error < levels[useful.back()].error) useful.push_back(l);
  }
  std::reverse(useful.begin(), useful.end());
  return useful;
}

double smallest_size(std::span<const SearchUnit> units) {
  double size = 0.0;
  for (const SearchUnit& unit : units) size += unit.levels.back().size;
  return size;
}

LevelSearch::LevelSearch(std::vector<SearchUnit> units, SearchGoal goal, double start_divergence,
                         std::uint64_t seed)
    : units_(std::move(units)), goal_(goal), random_(seed) {
  expect(!units_.empty(), "LevelSearch: units");
  double scale = 0.0;
  for (const SearchUnit& unit : units_) {
    expect(unit.start < unit.levels.size() && unit.weight > 0.0, "LevelSearch: a start and a weight");
    for (std::size_t l = 1; l < unit.levels.size(); ++l) {
      expect(unit.levels[l].size < unit.levels[l - 1].size && unit.levels[l].error > unit.levels[l - 1].error,
             "LevelSearch: useful levels, the largest first");
    }
    largest_ += unit.levels.front().size;
    best_.push_back(unit.start);
    scale += unit.weight * unit.levels[unit.start].error;
  }
  expect(goal_.max_divergence || goal_.max_size >= smallest_size(units_) * (1.0 - kSlack),
         "LevelSearch: a size that some plan has");
  best_divergence_ = start_divergence;
  seen_.insert(best_);
  const double factor = scale > 0.0 ? std::max(start_divergence, 1e-12) / scale : 1.0;
  for (const SearchUnit& unit : units_) prior_.push_back(unit.weight * factor);
  mean_ = prior_;
  const std::size_t n = units_.size();
  covariance_.resize(n * n);
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = 0; b < n; ++b) {
      const double depth = std::abs(static_cast<double>(units_[a].layer - units_[b].layer)) / kDepthLength;
      const double share = (a == b ? kOwnVariance : 0.0) + kDepthVariance * std::exp(-depth) +
                           (units_[a].kind == units_[b].kind ? kKindVariance : 0.0) + kCommonVariance;
      covariance_[a * n + b] = share * prior_[a] * prior_[b];
    }
  }
}

double LevelSearch::size_of(const Levels& plan) const {
  double size = 0.0;
  for (std::size_t u = 0; u < plan.size(); ++u) size += units_[u].levels[plan[u]].size;
  return size;
}

double LevelSearch::change(const Levels& from, const Levels& to, const Weights& theta) const {
  double sum = 0.0;
  for (std::size_t u = 0; u < to.size(); ++u)
    sum += theta[u] * (units_[u].levels[to[u]].error - units_[u].levels[from[u]].error);
  return sum;
}

double LevelSearch::expected(const Levels& plan) const {
  return best_divergence_ + change(best_, plan, mean_);
}

std::optional<std::size_t> LevelSearch::best_step(const Levels& plan, int direction, const Weights& theta,
                                                  const Levels* center, double room) const {
  std::optional<std::size_t> best;
  double lowest = std::numeric_limits<double>::infinity();
  for (std::size_t u = 0; u < plan.size(); ++u) {
    const auto& levels = units_[u].levels;
    const std::ptrdiff_t to = static_cast<std::ptrdiff_t>(plan[u]) + direction;
    if (to < 0 || to >= std::ssize(levels)) continue;
    if (center != nullptr) {
      // Not back again behind the center in the same mutation, and not far from it.
      const std::ptrdiff_t before =
          static_cast<std::ptrdiff_t>(plan[u]) - static_cast<std::ptrdiff_t>((*center)[u]);
      if (before * direction < 0 || std::abs(before + direction) > kReach) continue;
    }
    const SearchLevel& now = levels[plan[u]];
    const SearchLevel& then = levels[static_cast<std::size_t>(to)];
    const double size = std::abs(then.size - now.size);
    if (direction < 0 && size > room) continue;
    const double price = theta[u] * (then.error - now.error) / size;
    if (price < lowest) {
      lowest = price;
      best = u;
    }
  }
  return best;
}

Levels LevelSearch::fit(Levels plan, const Weights& theta, double max_size) const {
  const double slack = kSlack * largest_;
  double size = size_of(plan);
  while (size > max_size + slack) {
    const auto u = best_step(plan, +1, theta, nullptr, 0.0);
    if (!u) break;
    size -= units_[*u].levels[plan[*u]].size - units_[*u].levels[plan[*u] + 1].size;
    ++plan[*u];
  }
  while (const auto u = best_step(plan, -1, theta, nullptr, max_size - size + slack)) {
    size += units_[*u].levels[plan[*u] - 1].size - units_[*u].levels[plan[*u]].size;
    --plan[*u];
  }
  return plan;
}

Levels LevelSearch::switched(const Levels& from, const Weights& theta, double max_size,
                             std::size_t switches) const {
  const Levels start = fit(from, theta, max_size);
  Levels plan = start;
  const double slack = kSlack * largest_;
  for (std::size_t s = 0; s < switches; ++s) {
    Levels next = plan;
    const auto up = best_step(next, -1, theta, &start, std::numeric_limits<double>::infinity());
    if (!up) break;
    --next[*up];
    while (size_of(next) > max_size + slack) {
      const auto down = best_step(next, +1, theta, &start, 0.0);
      if (!down) return plan;
      ++next[*down];
    }
    if (change(plan, next, theta) >= 0.0) break;
    plan = std::move(next);
  }
  return plan;
}

Levels LevelSearch::shaken(Levels plan, double max_size) {
  const std::size_t u = below(plan.size());
  const auto last = units_[u].levels.size() - 1;
  if (last == 0) return plan;
  plan[u] = plan[u] == 0 ? 1 : plan[u] == last ? last - 1 : plan[u] + (below(2) == 0 ? 1 : -1);
  return fit(std::move(plan), mean_, max_size);
}

// Where a limit of divergence is the goal, the size at which it is expected to be met.
double LevelSearch::goal_size() const {
  if (!goal_.max_divergence) return goal_.max_size;
  const double limit = kAimedShare * *goal_.max_divergence;
  Levels plan = best_;
  double divergence = best_divergence_;
  const int direction = divergence < limit ? +1 : -1;
  while (direction > 0 ? divergence < limit : divergence > limit) {
    const auto u = best_step(plan, direction, mean_, nullptr, std::numeric_limits<double>::infinity());
    if (!u) break;
    Levels next = plan;
    next[*u] += static_cast<std::size_t>(direction);
    divergence += change(plan, next, mean_);
    if (direction > 0 && divergence > limit) break;
    plan = std::move(next);
  }
  return size_of(plan);
}

std::vector<Levels> LevelSearch::propose(std::size_t count) {
  const double size = goal_size();
  std::vector<Levels> plans;
  for (std::size_t k = 0; k < count; ++k) {
    // The first goes by the mean alone, as far as it leads.
    const Weights theta = k == 0 ? mean_ : draw();
    const double share =
        kSwitchShares[k == 0 ? std::size(kSwitchShares) - 1 : below(std::size(kSwitchShares))];
    const auto switches = static_cast<std::size_t>(std::ceil(share * static_cast<double>(units_.size())));
    Levels plan = switched(best_, theta, size, switches);
    constexpr int kTries = 32;
    for (int t = 0; t < kTries && seen_.contains(plan); ++t) plan = shaken(std::move(plan), size);
    if (seen_.insert(plan).second) plans.push_back(std::move(plan));
  }
  return plans;
}

bool LevelSearch::keeps_goal(const Levels& plan, double divergence) const {
  return goal_.max_divergence ? divergence <= *goal_.max_divergence
                              : size_of(plan) <= goal_.max_size + kSlack * largest_;
}

bool LevelSearch::better(const Levels& a, double a_divergence, const Levels& b, double b_divergence) const {
  const bool a_keeps = keeps_goal(a, a_divergence), b_keeps = keeps_goal(b, b_divergence);
  if (a_keeps != b_keeps) return a_keeps;
  if (!goal_.max_divergence && !a_keeps) return size_of(a) < size_of(b);
  return goal_.max_divergence && a_keeps ? size_of(a) < size_of(b) : a_divergence < b_divergence;
}

void LevelSearch::learn(std::span<const Levels> plans, std::span<const double> divergences) {
  expect(plans.size() == divergences.size(), "LevelSearch::learn: a divergence for each plan");
  const std::size_t n = units_.size();
  const Levels parent = best_;
  const double of_parent = best_divergence_;
  std::vector<double> x(n), cx(n);
  for (std::size_t p = 0; p < plans.size(); ++p) {
    seen_.insert(plans[p]);
    double moved = 0.0;
    for (std::size_t u = 0; u < n; ++u) {
      x[u] = units_[u].levels[plans[p][u]].error - units_[u].levels[parent[u]].error;
      moved += std::abs(x[u]) * prior_[u];
    }
    const double noise = kRelativeNoise * moved + kLeastNoise * of_parent;
    double variance = noise * noise, predicted = 0.0;
    for (std::size_t a = 0; a < n; ++a) {
      cx[a] = std::inner_product(x.begin(), x.end(), covariance_.begin() + static_cast<std::ptrdiff_t>(a * n),
                                 0.0);
      variance += x[a] * cx[a];
      predicted += x[a] * mean_[a];
    }
    if (variance > 0.0) {
      const double surprise = divergences[p] - of_parent - predicted;
      for (std::size_t a = 0; a < n; ++a) {
        mean_[a] += cx[a] / variance * surprise;
        for (std::size_t b = 0; b < n; ++b) covariance_[a * n + b] -= cx[a] * cx[b] / variance;
      }
    }
    if (better(plans[p], divergences[p], best_, best_divergence_)) {
      best_ = plans[p];
      best_divergence_ = divergences[p];
    }
  }
  for (std::size_t u = 0; u < n; ++u) mean_[u] = std::max(mean_[u], kLeastWeight * prior_[u]);
}

// mean + boldness·L·z with the covariance's Cholesky factor L; a pivot that rounding made vanish draws nothing.
LevelSearch::Weights LevelSearch::draw() {
  const std::size_t n = units_.size();
  std::vector<double> factor(n * n, 0.0);
  Weights theta = mean_;
  for (std::size_t c = 0; c < n; ++c) {
    const double* row_c = factor.data() + c * n;
    double pivot = covariance_[c * n + c];
    for (std::size_t k = 0; k < c; ++k) pivot -= row_c[k] * row_c[k];
    const double z = kBoldness * normal();
    if (pivot <= 1e-12 * prior_[c] * prior_[c]) continue;
    const double root = std::sqrt(pivot);
    factor[c * n + c] = root;
    theta[c] += root * z;
    for (std::size_t r = c + 1; r < n; ++r) {
      double sum = covariance_[r * n + c];
      for (std::size_t k = 0; k < c; ++k) sum -= factor[r * n + k] * row_c[k];
      factor[r * n + c] = sum / root;
      theta[r] += factor[r * n + c] * z;
    }
  }
  for (std::size_t u = 0; u < n; ++u) theta[u] = std::max(theta[u], kLeastWeight * prior_[u]);
  return theta;
}

// Box and Muller: the same numbers with every library, which std::normal_distribution does not promise.
double LevelSearch::normal() {
  const double a = (static_cast<double>(below(std::uint64_t{1} << 53)) + 1.0) / 9007199254740993.0;
  const double b = static_cast<double>(below(std::uint64_t{1} << 53)) / 9007199254740992.0;
  return std::sqrt(-2.0 * std::log(a)) * std::cos(2.0 * std::numbers::pi * b);
}

std::uint64_t LevelSearch::below(std::uint64_t limit) { return random_() % limit; }

}  // namespace swiftprune
