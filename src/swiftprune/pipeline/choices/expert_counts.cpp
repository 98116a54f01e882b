#include "swiftprune/pipeline/choices/expert_counts.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/core/error.h"
#include "swiftprune/model/router.h"

namespace swiftprune {
namespace {

// One expert of each group of a layer goes.
struct Step {
  double cost = 0.0;  // mean of their scores
  std::size_t place = 0;
};

// From the cheapest on, as far as the router and those that always stay allow.
std::vector<double> costs_of(const ExpertsConfig& experts, const ExpertEvidence& evidence,
                             const ExpertSpread& spread) {
  const std::vector<double> scores = comparable_scores(*spread.scorer, evidence, spread.seed);
  std::vector<bool> stays(scores.size(), false);
  if (spread.keep_super) {
    for (const std::int64_t j : super_experts(evidence)) stays[static_cast<std::size_t>(j)] = true;
  }
  const auto groups = static_cast<std::size_t>(experts.router.num_groups);
  const std::size_t a_group = scores.size() / groups;
  std::size_t most = static_cast<std::size_t>(experts.count - fewest_experts(experts)) / groups;
  std::vector<std::vector<double>> sorted;  // of each group, of those that may go
  for (std::size_t g = 0; g < groups; ++g) {
    std::vector<double>& of = sorted.emplace_back();
    for (std::size_t j = g * a_group; j < (g + 1) * a_group; ++j) {
      if (!stays[j]) of.push_back(scores[j]);
    }
    std::ranges::sort(of);
    most = std::min(most, of.size());
  }
  std::vector<double> costs(most, 0.0);
  for (std::size_t step = 0; step < most; ++step) {
    for (const std::vector<double>& of : sorted) costs[step] += of[step] / static_cast<double>(groups);
  }
  return costs;
}

}  // namespace

std::int64_t fewest_experts(const ExpertsConfig& experts) {
  std::int64_t fewest = experts.count;
  for (std::int64_t n = experts.count - 1; n >= 1; --n) {
    if (!router_problem(experts.router, n)) fewest = n;
  }
  return fewest;
}

std::vector<std::int64_t> spread_experts(const ModelConfig& model, std::span<const ExpertEvidence> evidence,
                                         const ExpertSpread& spread) {
  std::vector<std::int64_t> counts;
  std::vector<Step> steps;
  std::int64_t groups = 1, all = 0;
  for (const ExpertEvidence& of : evidence) {
    const ExpertsConfig& experts = *model.blocks[static_cast<std::size_t>(of.layer)].experts;
    groups = experts.router.num_groups;
    all += experts.count;
    for (const double cost : costs_of(experts, of, spread)) steps.push_back({cost, counts.size()});
    counts.push_back(experts.count);
  }
  expect(!counts.empty(), "spread_experts: layers with experts");
  const auto layers = static_cast<double>(counts.size());
  const double wanted = spread.mean_left * layers;
  const auto gone = static_cast<std::int64_t>(
      std::llround((static_cast<double>(all) - wanted) / static_cast<double>(groups)));
  if (gone < 1) {
    bad_usage("{}: found a request that leaves {:.4g} of {} experts a layer, expected one that removes some",
              spread.flag, spread.mean_left, counts.front());
  }
  if (gone > std::ssize(steps)) {
    const double least = static_cast<double>(all - std::ssize(steps) * groups) / layers;
    bad_usage(
        "{}: found a request that leaves {:.4g} of {} experts a layer, expected at least {:.4g}, which "
        "routers and super "
        "experts need",
        spread.flag, spread.mean_left, counts.front(), least);
  }
  // Costs rise within a layer, so the cheapest of all are the first of each layer.
  std::ranges::stable_sort(steps, {}, &Step::cost);
  for (std::int64_t i = 0; i < gone; ++i) counts[steps[static_cast<std::size_t>(i)].place] -= groups;
  return counts;
}

}  // namespace swiftprune
