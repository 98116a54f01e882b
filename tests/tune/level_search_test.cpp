// The search against problems whose answer is known: divergences that a formula gives instead of a model.
#include "swiftprune/tune/level_search.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace swiftprune {
namespace {

using ::testing::ElementsAre;

TEST(UsefulLevelsTest, DropsWhatAnotherBeats) {
  //                                          beaten by 2: larger and worse
  const std::vector<SearchLevel> levels = {{100, 0.5}, {80, 0.6}, {90, 0.4}, {50, 0.9}, {50, 0.8}};
  EXPECT_THAT(useful_levels(levels), ElementsAre(2, 1, 4));
  EXPECT_TRUE(useful_levels({}).empty());
}

// Units of three kinds whose true worth differs from the prior's by factors that it does not know.
class Problem {
 public:
  explicit Problem(std::size_t layers) {
    for (std::size_t layer = 0; layer < layers; ++layer) {
      for (const char* kind : {"q_proj", "up_proj", "down_proj"}) {
        SearchUnit unit;
        unit.layer = static_cast<std::int64_t>(layer);
        unit.kind = kind;
        const double weights = kind[0] == 'q' ? 100.0 : 300.0;
        for (int l = 0; l < 7; ++l) {
          const double share = 0.4 + 0.08 * l;
          unit.levels.push_back({weights * (1.0 - share), std::exp(6.0 * share)});
        }
        unit.start = 3;
        const auto u = static_cast<double>(units.size());
        truth.push_back(std::exp(1.2 * std::sin(1.7 * u)) * (kind[0] == 'd' ? 2.0 : 0.7));
        units.push_back(std::move(unit));
      }
    }
  }
  Levels start() const { return Levels(units.size(), 3); }
  double size(const Levels& plan) const {
    double sum = 0.0;
    for (std::size_t u = 0; u < plan.size(); ++u) sum += units[u].levels[plan[u]].size;
    return sum;
  }
  double divergence(const Levels& plan) const {
    double sum = 0.0;
    for (std::size_t u = 0; u < plan.size(); ++u) sum += truth[u] * units[u].levels[plan[u]].error;
    return 1e-4 * sum;
  }
  // The best plan, which a greedy exchange finds since errors are convex in the size.
  double best(double max_size) const {
    Levels plan(units.size(), 0);
    while (size(plan) > max_size) {
      std::size_t cheapest = 0;
      double lowest = INFINITY;
      for (std::size_t u = 0; u < plan.size(); ++u) {
        if (plan[u] + 1 == units[u].levels.size()) continue;
        const SearchLevel &now = units[u].levels[plan[u]], &then = units[u].levels[plan[u] + 1];
        const double price = truth[u] * (then.error - now.error) / (now.size - then.size);
        if (price < lowest) lowest = price, cheapest = u;
      }
      ++plan[cheapest];
    }
    return divergence(plan);
  }

  std::vector<SearchUnit> units;
  std::vector<double> truth;
};

void run(const Problem& problem, LevelSearch& search, int rounds) {
  for (int r = 0; r < rounds; ++r) {
    const std::vector<Levels> plans = search.propose(8);
    std::vector<double> found;
    for (const Levels& plan : plans) found.push_back(problem.divergence(plan));
    search.learn(plans, found);
  }
}

TEST(LevelSearchTest, FindsMostOfWhatThereIsToFind) {
  const Problem problem(12);
  const double size = problem.size(problem.start()), before = problem.divergence(problem.start());
  LevelSearch search(problem.units, {size, {}}, before, 1);
  run(problem, search, 12);
  EXPECT_LE(search.size_of(search.best()), size * 1.0001);
  EXPECT_DOUBLE_EQ(search.best_divergence(), problem.divergence(search.best()));
  const double best = problem.best(size);
  ASSERT_LT(best, 0.85 * before);  // there is something to find
  EXPECT_LT(search.best_divergence(), best + 0.15 * (before - best));
  EXPECT_TRUE(search.keeps_goal());
}

TEST(LevelSearchTest, TheSeedDecides) {
  const Problem problem(4);
  const auto found = [&](std::uint64_t seed) {
    LevelSearch search(problem.units, {problem.size(problem.start()), {}},
                       problem.divergence(problem.start()), seed);
    std::vector<Levels> all;
    for (int r = 0; r < 3; ++r) {
      const std::vector<Levels> plans = search.propose(4);
      std::vector<double> kl;
      for (const Levels& plan : plans) kl.push_back(problem.divergence(plan));
      search.learn(plans, kl);
      all.insert(all.end(), plans.begin(), plans.end());
    }
    return all;
  };
  EXPECT_EQ(found(5), found(5));
  EXPECT_NE(found(5), found(6));
}

TEST(LevelSearchTest, NoPlanComesTwice) {
  const Problem problem(1);  // 343 plans
  LevelSearch search(problem.units, {problem.size(problem.start()), {}}, problem.divergence(problem.start()),
                     1);
  std::set<Levels> seen = {problem.start()};
  for (int r = 0; r < 10; ++r) {
    const std::vector<Levels> plans = search.propose(8);
    std::vector<double> found;
    for (const Levels& plan : plans) {
      EXPECT_TRUE(seen.insert(plan).second);
      EXPECT_LE(problem.size(plan), problem.size(problem.start()) * 1.0001);
      found.push_back(problem.divergence(plan));
    }
    search.learn(plans, found);
  }
}

TEST(LevelSearchTest, AStartThatIsTooLargeIsBroughtToTheSize) {
  const Problem problem(6);
  const double size = 0.8 * problem.size(problem.start());
  LevelSearch search(problem.units, {size, {}}, problem.divergence(problem.start()), 1);
  EXPECT_FALSE(search.keeps_goal());
  run(problem, search, 8);
  EXPECT_TRUE(search.keeps_goal());
  EXPECT_LE(search.size_of(search.best()), size * 1.0001);
  EXPECT_GT(search.size_of(search.best()), 0.98 * size);
  EXPECT_LT(search.best_divergence(), 1.1 * problem.best(size));
}

TEST(LevelSearchTest, TheSmallestPlanWithinADivergence) {
  const Problem problem(12);
  const double before = problem.divergence(problem.start());
  for (const double limit : {0.6 * before, 1.4 * before}) {
    LevelSearch search(problem.units, {0.0, limit}, before, 1);
    run(problem, search, 25);
    EXPECT_TRUE(search.keeps_goal());
    EXPECT_LE(search.best_divergence(), limit);
    EXPECT_GT(search.best_divergence(), 0.98 * limit);
    EXPECT_LT(problem.best(search.size_of(search.best())), limit);
    EXPECT_GT(problem.best(search.size_of(search.best())), 0.9 * limit);  // hardly smaller ones would do
  }
}

}  // namespace
}  // namespace swiftprune
