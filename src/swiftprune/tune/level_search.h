// The search for the best plan under a budget: every linear is held at one of a few levels, and a mutation takes weights
// here and gives them there (EvoPress, arXiv 2410.14649). What a step of each linear is worth is learned meanwhile: the
// divergence is taken as Σ θ_u·error_u(level), θ has a normal prior, every plan that was measured is an observation of
// it, and mutations follow draws from the posterior (after Thompson), so that a few hundred plans suffice where blind
// mutations need thousands (docs/method.md, "Search of a plan"). Nothing here knows a model: what a plan is worth comes
// from outside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace swiftprune {

// One way to hold a linear.
struct SearchLevel {
  double size = 0.0;   // in the budget's unit: kept weights, or bytes
  double error = 0.0;  // relative error of the linear's output
};

struct SearchUnit {
  std::int64_t layer = 0;
  std::string kind;                 // "up_proj": linears of one kind are taken to behave alike
  std::vector<SearchLevel> levels;  // sizes fall strictly, errors rise strictly
  std::size_t start = 0;
  double weight = 1.0;  // the prior's mean of θ, up to a factor common to all units
};

// Of levels in any order, those that no other is both smaller and better than, the largest first: what a SearchUnit
// holds. Numbers of `levels`.
std::vector<std::size_t> useful_levels(std::span<const SearchLevel> levels);

using Levels = std::vector<std::size_t>;  // of each unit

// Of the smallest plan.
double smallest_size(std::span<const SearchUnit> units);

struct SearchGoal {
  double max_size = 0.0;                 // of all units together; where max_divergence is given, unused
  std::optional<double> max_divergence;  // the smallest plan within it, instead of the best within max_size
};

class LevelSearch {
 public:
  // The start is measured already. Some plan has the goal's size.
  LevelSearch(std::vector<SearchUnit> units, SearchGoal goal, double start_divergence, std::uint64_t seed);

  // The next plans to measure, all different from those before; empty when none is left.
  std::vector<Levels> propose(std::size_t count);
  void learn(std::span<const Levels> plans, std::span<const double> divergences);

  const Levels& best() const { return best_; }
  double best_divergence() const { return best_divergence_; }
  bool keeps_goal() const { return keeps_goal(best_, best_divergence_); }
  double size_of(const Levels& plan) const;
  // The best plan of this size by what was learned, and what it is expected to diverge.
  Levels fitted(double max_size) const { return fit(best_, mean_, max_size); }
  double expected(const Levels& plan) const;

 private:
  using Weights = std::vector<double>;  // θ of each unit

  double change(const Levels& from, const Levels& to, const Weights& theta) const;
  // One step up (-1, more weights) or down (+1) of the unit that costs least or gains most for its size; nothing when none
  // may. `reach`: steps from `center`. room: most size that a step up may add.
  std::optional<std::size_t> best_step(const Levels& plan, int direction, const Weights& theta,
                                       const Levels* center, double room) const;
  Levels fit(Levels plan, const Weights& theta, double max_size) const;
  Levels switched(const Levels& from, const Weights& theta, double max_size, std::size_t switches) const;
  Levels shaken(Levels plan, double max_size);
  double goal_size() const;
  bool keeps_goal(const Levels& plan, double divergence) const;
  bool better(const Levels& a, double a_divergence, const Levels& b, double b_divergence) const;
  Weights draw();
  double normal();
  std::uint64_t below(std::uint64_t limit);

  std::vector<SearchUnit> units_;
  SearchGoal goal_;
  std::mt19937_64 random_;
  Weights prior_, mean_;
  std::vector<double> covariance_;  // [units, units]
  Levels best_;
  double best_divergence_ = 0.0;
  double largest_ = 0.0;  // of all sizes
  std::set<Levels> seen_;
};

}  // namespace swiftprune
