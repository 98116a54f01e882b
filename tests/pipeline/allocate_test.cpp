// Shares against an exhaustive search, and the whole way on tiny models.
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/pipeline/choices/sensitivities.h"

#include <cmath>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/temp_dir.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

double mean_of(const std::vector<double>& shares, const std::vector<double>& sizes) {
  return std::inner_product(shares.begin(), shares.end(), sizes.begin(), 0.0) /
         std::accumulate(sizes.begin(), sizes.end(), 0.0);
}

// φ as docs/method.md writes it.
double cost(double h, double s) {
  const double ln = s < 0.5    ? (s - 0.5) * 1.677 / 0.2
                    : s < 0.7  ? (s - 0.5) * 1.253 / 0.2
                    : s < 0.85 ? 1.253 + (s - 0.7) * 0.914 / 0.15
                               : 2.167 + 1.5 * (s - 0.85) * 0.914 / 0.15;
  return h * std::exp(ln);
}

TEST(AllocateShares, NoPairCanTradeForLess) {
  const std::vector<double> h = {0.002, 0.01, 0.05, 0.004, 0.3, 0.00001};
  const std::vector<double> sizes = {100, 400, 100, 200, 100, 50};
  for (double sparsity : {0.3, 0.5, 0.6, 0.7, 0.85}) {
    const std::vector<double> shares = allocate_shares(h, sizes, sparsity);
    EXPECT_NEAR(mean_of(shares, sizes), sparsity, 1e-9);
    double total = 0.0;
    double uniform = 0.0;
    for (std::size_t i = 0; i < h.size(); ++i) {
      total += cost(h[i], shares[i]);
      uniform += cost(h[i], sparsity);
    }
    EXPECT_LT(total, 0.8 * uniform);
    for (std::size_t i = 0; i < h.size(); ++i) {
      EXPECT_GE(shares[i], 0.05 - 1e-12);
      EXPECT_LE(shares[i], 0.95 + 1e-12);
      for (std::size_t j = 0; j < h.size(); ++j) {
        const double up = 0.02 / sizes[i] * 100;
        const double down = 0.02 / sizes[j] * 100;
        if (i == j || shares[i] + up > 0.95 || shares[j] - down < 0.05) continue;
        const double change = cost(h[i], shares[i] + up) + cost(h[j], shares[j] - down) -
                              cost(h[i], shares[i]) - cost(h[j], shares[j]);
        EXPECT_GT(change, -0.01 * total) << sparsity << " " << i << " " << j;
      }
    }
  }
}

TEST(AllocateShares, EqualLinearsStayUniformAndSensitiveOnesKeepMore) {
  for (double share : allocate_shares(std::vector<double>(5, 0.1), std::vector<double>(5, 10.0), 0.5)) {
    EXPECT_NEAR(share, 0.5, 1e-9);
  }
  const std::vector<double> shares =
      allocate_shares(std::vector<double>{0.1, 0.2}, std::vector<double>{10.0, 10.0}, 0.5);
  EXPECT_GT(shares[0], shares[1]);
  EXPECT_NEAR(allocate_shares(std::vector<double>{0.1}, std::vector<double>{10.0}, 0.97)[0], 0.97, 1e-9);
}

TEST(Allocate, KeepsTheMeanOfEveryFamily) {
  set_num_threads(1);  // tiny products: threads would only wait for each other
  for (const std::string& name : test::model_names()) {
    SCOPED_TRACE(name);
    const auto model = Model::open(test::kModels / name);
    const auto backend = make_cpu_backend();
    const TokenWindows windows = test::Expected(name).windows();
    PlanDefaults defaults;
    defaults.sparsity = 0.6;
    defaults.score = parse_score("wanda");
    defaults.refine = parse_refine("none");
    Plan plan = uniform_plan(*model, defaults, {});
    plan.entries.front().prune = false;
    const auto h =
        measure_sensitivities(cpu_probe_shop(*backend), *model, plan, windows, ComputeType::kF32, {}).values;
    ASSERT_EQ(h.size(), plan.entries.size());
    EXPECT_EQ(h.front(), 0.0);
    for (std::size_t i = 1; i < h.size(); ++i) {
      EXPECT_TRUE(std::isfinite(h[i]));
      EXPECT_GT(h[i], 0.0) << plan.entries[i].tensor;
    }
    const double before = plan.sparsity();
    allocate_by_sensitivity(h, plan);
    EXPECT_NEAR(plan.sparsity(), before, 1e-9);
    EXPECT_EQ(plan.rounding, PruneTarget::Rounding::kExactTotal);
    const auto least = std::min_element(h.begin() + 1, h.end()) - h.begin();
    const auto most = std::max_element(h.begin() + 1, h.end()) - h.begin();
    EXPECT_GE(plan.entries[static_cast<std::size_t>(least)].sparsity,
              plan.entries[static_cast<std::size_t>(most)].sparsity);
  }
  set_num_threads(0);
}

TEST(Allocate, APlanFileRepeatsIt) {
  const auto model = Model::open(test::kModels / "llama3");
  PlanDefaults defaults;
  defaults.score = parse_score("wanda");
  defaults.refine = parse_refine("none");
  Plan plan = uniform_plan(*model, defaults, {});
  std::vector<double> h(plan.entries.size());
  for (std::size_t i = 0; i < h.size(); ++i) h[i] = 0.01 * static_cast<double>(i + 1);
  allocate_by_sensitivity(h, plan);
  const test::TempDir folder;
  const std::string path = folder.path() / "plan.json";
  test::write_text(path, to_json(plan).dump());
  Plan read = uniform_plan(*model, defaults, {});
  apply_plan_file(path, read);
  EXPECT_EQ(read.rounding, plan.rounding);
  for (std::size_t i = 0; i < h.size(); ++i) {
    EXPECT_EQ(read.entries[i].sparsity, plan.entries[i].sparsity);
    EXPECT_TRUE(read.entries[i].has_row_budgets());
  }
  test::write_text(path, R"({"rounding": "column", "tensors": []})");
  try {
    apply_plan_file(path, read);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("\"column\""));
  }
}

TEST(AllocateGroupCounts, NoSingleStepIsCheaper) {
  const std::vector<double> h = {0.002, 0.01, 0.05, 0.004, 0.3, 0.00001};
  const std::vector<double> sizes = {100, 400, 100, 200, 100, 50};
  const std::vector<std::int64_t> kept = allocate_group_counts(h, sizes, 4, 8);
  double mean = 0.0;
  for (std::size_t i = 0; i < h.size(); ++i) {
    EXPECT_GE(kept[i], 2);
    EXPECT_LE(kept[i], 6);
    mean += static_cast<double>(kept[i]) * sizes[i];
  }
  mean /= std::accumulate(sizes.begin(), sizes.end(), 0.0);
  EXPECT_GE(mean, 4.0);
  EXPECT_LT(mean, 4.0 + 50.0 / 950.0);
  const auto price = [&](std::size_t i, std::int64_t n) {
    return cost(h[i], 1.0 - static_cast<double>(n) / 8.0);
  };
  for (std::size_t i = 0; i < h.size(); ++i) {
    for (std::size_t j = 0; j < h.size(); ++j) {
      if (i == j || sizes[i] != sizes[j] || kept[i] == 6 || kept[j] == 2) continue;
      EXPECT_GE(price(i, kept[i] + 1) + price(j, kept[j] - 1), price(i, kept[i]) + price(j, kept[j]));
    }
  }
}

TEST(AllocateGroupCounts, EqualLinearsKeepTheSame) {
  for (const std::int64_t n : {1, 4, 7}) {
    for (const std::int64_t kept :
         allocate_group_counts(std::vector<double>(5, 0.1), std::vector<double>(5, 10.0), n, 8)) {
      EXPECT_EQ(kept, n);
    }
  }
}

TEST(Allocate, MixesNofEight) {
  const auto model = Model::open(test::kModels / "qwen2");
  PlanDefaults defaults;
  defaults.pattern = parse_pattern("4:8");
  defaults.score = parse_score("wanda");
  defaults.refine = parse_refine("none");
  Plan plan = uniform_plan(*model, defaults, {});
  std::vector<double> h(plan.entries.size());
  for (std::size_t i = 0; i < h.size(); ++i) h[i] = std::pow(10.0, static_cast<double>(i % 4));
  allocate_by_sensitivity(h, plan);
  EXPECT_LE(plan.sparsity(), 0.5);
  EXPECT_GT(plan.sparsity(), 0.45);
  bool mixed = false;
  for (const PlanEntry& entry : plan.entries) {
    EXPECT_EQ(entry.pattern.m, 8);
    mixed |= entry.pattern.n != 4;
  }
  EXPECT_TRUE(mixed);
}

TEST(Allocate, LeavesSmallGroupsAlone) {
  const auto model = Model::open(test::kModels / "llama3");
  PlanDefaults defaults;
  defaults.pattern = parse_pattern("1:2");
  defaults.score = parse_score("wanda");
  defaults.refine = parse_refine("none");
  Plan plan = uniform_plan(*model, defaults, {});
  const Plan before = plan;
  allocate_by_sensitivity(std::vector<double>(plan.entries.size(), 0.1), plan);
  for (std::size_t i = 0; i < plan.entries.size(); ++i) {
    EXPECT_EQ(plan.entries[i].sparsity, before.entries[i].sparsity);
  }
  EXPECT_EQ(plan.rounding, before.rounding);
}

}  // namespace
}  // namespace swiftprune
