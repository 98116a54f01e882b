// Bits and zeros for a budget: against exchanges of pairs, what is fixed, and what is refused.
#include "swiftprune/pipeline/choices/allocate_bits.h"

#include <cmath>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace swiftprune {
namespace {

using test::expect_error;

// Linears of a larger model, so that headers and padding weigh as little as they do there.
Plan plan_of(const std::vector<std::pair<std::int64_t, std::int64_t>>& shapes) {
  Plan plan;
  for (const auto& [rows, cols] : shapes) {
    PlanEntry entry;
    entry.tensor = "linear." + std::to_string(plan.entries.size());
    entry.rows = rows;
    entry.cols = cols;
    entry.grid = QuantGrid{.bits = 8};
    plan.entries.push_back(entry);
  }
  return plan;
}

Plan ten_linears() {
  return plan_of({{576, 576},
                  {192, 576},
                  {192, 576},
                  {576, 576},
                  {1536, 576},
                  {1536, 576},
                  {576, 1536},
                  {576, 576},
                  {1536, 576},
                  {576, 1536}});
}

std::vector<double> sensitivities(std::size_t count) {
  std::mt19937 random(7);
  std::normal_distribution<double> logarithm(-3.0, 1.2);
  std::vector<double> h(count);
  for (double& value : h) value = std::exp(logarithm(random));
  return h;
}

double size_of(const PlanEntry& entry) {
  const auto kept = std::llround((1.0 - entry.sparsity) * entry.num_weights());
  return 8.0 * grid_bytes(*entry.grid, entry.rows, entry.cols, kept);
}
double cost_of(const PlanEntry& entry, double h) { return h * level_cost(entry.grid->bits, entry.sparsity); }

TEST(AllocateBits, TheBudgetIsUsedAndNoPairCanTradeForLess) {
  const std::vector<double> h = sensitivities(10);
  for (const double mean : {2.25, 2.75, 3.25, 3.5, 4.25, 6.0}) {
    SCOPED_TRACE(mean);
    const BitsGoal goal{.mean = mean, .bits = {8, 4, 3}};
    Plan plan = ten_linears();
    allocate_bits(h, goal, plan);
    EXPECT_LE(packed_bits(plan), mean + 1e-6);
    EXPECT_GT(packed_bits(plan), 0.95 * mean);  // from 4 bits to 8 is a large step of a large linear
    EXPECT_EQ(plan.rounding, PruneTarget::Rounding::kExactTotal);
    double total = 0.0;
    for (std::size_t u = 0; u < h.size(); ++u) {
      total += cost_of(plan.entries[u], h[u]);
      EXPECT_EQ(plan.entries[u].row_budgets, plan.entries[u].sparsity > 0.0);
      EXPECT_EQ(plan.entries[u].grid->group, QuantGrid{}.group);
    }
    // One linear takes another level, a second pays for it with one of its own.
    double room = mean * 1e-9;
    for (const PlanEntry& entry : plan.entries) room += mean * entry.num_weights() - size_of(entry);
    std::vector<PlanEntry> tried;
    for (const int bits : goal.bits) {
      for (int step = 0; step <= 95; ++step) {
        tried.emplace_back().grid = QuantGrid{.bits = bits};
        tried.back().sparsity = 0.01 * step;
      }
    }
    const auto with = [&](std::size_t u, const PlanEntry& level) {
      PlanEntry entry = plan.entries[u];
      entry.grid = level.grid;
      entry.sparsity = level.sparsity;
      return std::pair(size_of(entry) - size_of(plan.entries[u]),
                       cost_of(entry, h[u]) - cost_of(plan.entries[u], h[u]));
    };
    double best = 0.0;
    for (std::size_t u = 0; u < h.size(); ++u) {
      for (std::size_t v = 0; v < h.size(); ++v) {
        for (const PlanEntry& a : tried) {
          const auto [size_a, cost_a] = with(u, a);
          if (u == v || cost_a >= 0.0) continue;
          for (const PlanEntry& b : tried) {
            const auto [size_b, cost_b] = with(v, b);
            if (size_a + size_b <= room) best = std::min(best, cost_a + cost_b);
          }
        }
      }
    }
    EXPECT_GT(best, -0.03 * total);  // what whole linears leave
  }
}

TEST(AllocateBits, SensitiveLinearsGetMore) {
  Plan plan = plan_of({{576, 576}, {576, 576}, {576, 576}, {576, 576}});
  allocate_bits(std::vector<double>{1e-4, 1e-3, 1e-2, 1.0}, {.mean = 4.0, .bits = {8, 4, 3}}, plan);
  for (std::size_t u = 1; u < plan.entries.size(); ++u)
    EXPECT_GE(size_of(plan.entries[u]), size_of(plan.entries[u - 1]));
  EXPECT_LT(size_of(plan.entries[0]), size_of(plan.entries[3]));
}

TEST(AllocateBits, WithoutZerosBitsAloneDiffer) {
  const std::vector<double> h = sensitivities(10);
  Plan plan = ten_linears();
  allocate_bits(h, {.mean = 3.75, .bits = {8, 4, 3}, .zeros = false}, plan);
  std::set<int> bits;
  for (const PlanEntry& entry : plan.entries) {
    EXPECT_EQ(entry.sparsity, 0.0);
    EXPECT_FALSE(entry.row_budgets);
    bits.insert(entry.grid->bits);
  }
  EXPECT_GT(bits.size(), 1u);
  EXPECT_LE(packed_bits(plan), 3.75 + 1e-6);
}

TEST(AllocateBits, WhatIsFixedStaysAndCounts) {
  const std::vector<double> h = sensitivities(10);
  Plan plan = ten_linears();
  plan.entries[4].fixed = true;  // 8 bits
  plan.entries[5].prune = false;
  plan.entries[6].grid.reset();
  plan.entries[6].sparsity = 0.3;
  const Plan before = plan;
  allocate_bits(h, {.mean = 4.0, .bits = {4, 3}}, plan);
  EXPECT_EQ(plan.entries[4].grid->bits, 8);
  EXPECT_EQ(plan.entries[4].sparsity, 0.0);
  EXPECT_EQ(plan.entries[5].grid, before.entries[5].grid);
  EXPECT_EQ(plan.entries[6].sparsity, 0.3);
  double size = 0.0, weights = 0.0;
  for (std::size_t i = 0; i < plan.entries.size(); ++i) {
    if (i == 5 || i == 6) continue;
    size += size_of(plan.entries[i]);
    weights += plan.entries[i].num_weights();
  }
  EXPECT_NEAR(packed_bits(plan), size / weights, 1e-9);
  EXPECT_LE(size / weights, 4.0 + 1e-6);
}

TEST(AllocateBits, SaysTheNearestThatCanBeHad) {
  const Plan plan = ten_linears();
  const BitsGoal all{.mean = 1.0, .bits = {8, 4, 3}}, grids{.mean = 3.0, .bits = {8, 4, 3}, .zeros = false};
  expect_error(ErrorKind::kUsage, [&] { check_bits(all, plan); },
               {"--bits: found 1,", "expected at least 1.4", "int3 with 95 % zeros"});
  expect_error(ErrorKind::kUsage, [&] { check_bits(grids, plan); },
               {"--bits: found 3,", "expected at least 3.25", "int3 takes", "swiftprune prune --bits"});
  for (const bool zeros : {true, false}) {
    expect_error(ErrorKind::kUsage,
                 [&] {
                   check_bits({9.0, {4, 3}, zeros}, plan);
                 },
                 {"--bits: found 9,", "expected at most 4.25", "int4 takes"});
  }
  // What is said can be asked for.
  Plan nearest = ten_linears();
  allocate_bits(sensitivities(10), {.mean = 3.252, .bits = {8, 4, 3}, .zeros = false}, nearest);
  Plan none = ten_linears();
  for (PlanEntry& entry : none.entries) entry.fixed = true;
  expect_error(ErrorKind::kUsage,
               [&] {
                 check_bits({4.0, {8, 4, 3}}, none);
               },
               {"--bits", "no linear is left"});
}

// From where a bitmap is worth its bits.
TEST(AllocateBits, CostsFallWithBitsAndRiseWithZeros) {
  for (const int bits : kQuantBits) {
    for (int step = 100 / bits; step < 95; ++step) {
      const double s = 0.01 * step;
      EXPECT_LE(level_cost(bits, s), level_cost(bits, s + 0.01)) << bits << " " << s;
      EXPECT_LE(level_cost(bits, 0.0), level_cost(bits, s)) << bits << " " << s;
      EXPECT_LT(level_cost(8, s), level_cost(4, s));
      EXPECT_LT(level_cost(4, s), level_cost(3, s));
    }
  }
  EXPECT_NEAR(level_cost(8, 0.5), 1.0, 0.05);  // the unit
}

TEST(AllocateBits, APlanFileRepeatsIt) {
  const auto model = Model::open(test::kModels / "llama3");
  PlanDefaults defaults;
  defaults.sparsity = 0.0;
  defaults.refine = parse_refine("aligned-admm");
  defaults.grid = parse_grid("int8(row)", "test");
  Plan plan = uniform_plan(*model, defaults, {});
  allocate_bits(sensitivities(plan.entries.size()), {.mean = 5.0, .bits = {8, 4, 3}}, plan);
  EXPECT_LE(packed_bits(plan), 5.0 + 1e-6);
  const test::TempDir folder;
  const std::string path = folder.path() / "plan.json";
  test::write_text(path, to_json(plan).dump());
  defaults.grid.reset();
  defaults.refine = parse_refine("none");
  Plan read = uniform_plan(*model, defaults, {});
  apply_plan_file(path, read);
  EXPECT_EQ(to_json(read), to_json(plan));
  EXPECT_EQ(packed_bits(read), packed_bits(plan));
}

}  // namespace
}  // namespace swiftprune
