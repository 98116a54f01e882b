// What is solved beside a plan (SolvedLevels) is what the plan would have made of the linear, and changes nothing of the
// rest, on any device.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "support/collected_output.h"
#include "swiftprune/pipeline/drivers/prune.h"

namespace swiftprune::test {

using PruneFn = std::function<PruneResult(const Plan& plan, const TokenWindows& windows,
                                          const PruneOptions& options, PruneOutput& output)>;

inline void expect_levels_beside(const Model& model, const std::string& refine, const TokenWindows& windows,
                                 const PruneFn& prune) {
  const PlanDefaults defaults{parse_pattern("row"), 0.6, parse_score("wanda"), parse_refine(refine)};
  Plan plan = uniform_plan(model, defaults, {"*.layers.0.*.k_proj.weight"});
  plan.rounding = PruneTarget::Rounding::kExactTotal;
  for (PlanEntry& entry : plan.entries) entry.row_budgets = entry.prune;
  // One other level of the first linear, two of a later one.
  const std::size_t chosen[] = {0, plan.entries.size() - 1};
  SolvedLevels beside;
  beside.levels.resize(plan.entries.size());
  for (const std::size_t e : chosen) {
    for (const double sparsity : {0.3, 0.8}) {
      if (e == 0 && sparsity > 0.5) continue;
      beside.levels[e].push_back(plan.entries[e]);
      beside.levels[e].back().sparsity = sparsity;
    }
  }
  using Level = std::pair<std::size_t, std::size_t>;
  std::map<Level, std::vector<float>> taken;
  std::map<Level, TensorResult> results;
  beside.take = [&](std::size_t e, std::size_t l, const TensorResult& result, ConstMatrixView weight) {
    EXPECT_EQ(result.name, plan.entries[e].tensor);
    results[{e, l}] = result;
    taken[{e, l}].assign(weight.data, weight.data + weight.rows * weight.cols);
  };
  PruneOptions options;
  Collected alone(model.checkpoint()), with(model.checkpoint());
  const PruneResult before = prune(plan, windows, options, alone);
  options.levels = &beside;
  const PruneResult after = prune(plan, windows, options, with);
  EXPECT_EQ(alone.tensors, with.tensors);
  EXPECT_EQ(before.sparsity, after.sparsity);
  ASSERT_EQ(taken.size(), 3u);
  for (const auto& [level, values] : taken) {
    const auto& [e, l] = level;
    const PlanEntry& entry = beside.levels[e][l];
    Plan other = plan;
    other.entries[e] = entry;
    Collected expected(model.checkpoint());
    const PruneResult result = prune(other, windows, {}, expected);
    EXPECT_EQ(values, expected.values(entry.tensor)) << entry.tensor << " " << entry.sparsity;
    for (const TensorResult& tensor : result.tensors) {
      if (tensor.name != entry.tensor) continue;
      EXPECT_EQ(results[level].sparsity, tensor.sparsity);
      EXPECT_NEAR(results[level].sparsity, entry.sparsity, 0.01);
      ASSERT_TRUE(results[level].error && tensor.error);
      EXPECT_DOUBLE_EQ(*results[level].error, *tensor.error);
    }
  }
}

}  // namespace swiftprune::test
