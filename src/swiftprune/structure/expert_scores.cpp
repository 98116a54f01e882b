#include "swiftprune/structure/expert_scores.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/scoring/random.h"

namespace swiftprune {
namespace {

// Mean over an expert's own tokens; nothing was seen of one without tokens.
std::vector<double> reap(const ExpertEvidence& e, std::uint64_t) {
  std::vector<double> scores(e.share_norms);
  for (std::size_t j = 0; j < scores.size(); ++j) {
    if (e.tokens[j] > 0) scores[j] /= static_cast<double>(e.tokens[j]);
  }
  return scores;
}

std::vector<double> frequency(const ExpertEvidence& e, std::uint64_t) {
  return {e.tokens.begin(), e.tokens.end()};
}

std::vector<double> router_weight(const ExpertEvidence& e, std::uint64_t) { return e.shares; }

std::vector<double> ean(const ExpertEvidence& e, std::uint64_t) { return e.norms; }

std::vector<double> change(const ExpertEvidence& e, std::uint64_t) { return e.changes; }

std::vector<double> random(const ExpertEvidence& e, std::uint64_t seed) {
  std::vector<double> scores;
  for (std::int64_t j = 0; j < e.num_experts(); ++j) {
    scores.push_back(static_cast<double>(random_stream(seed, fmt::format("{}.{}", e.layer, j))));
  }
  return scores;
}

constexpr std::array kExpertScorers = {
    ExpertScorer{"ours", true, change, false,
                 "change of the layer's output when the expert is gone and the router chooses again",
                 "this project"},
    ExpertScorer{"reap", false, reap, true,
                 "mean of weight times norm of the output over the expert's tokens", "arXiv 2510.13999"},
    ExpertScorer{"frequency", false, frequency, false, "number of tokens", "baseline"},
    ExpertScorer{"router-weight", false, router_weight, false, "sum of the router's weights", "baseline"},
    ExpertScorer{"ean", false, ean, true, "sum of the norms of the output", "arXiv 2504.05586"},
    ExpertScorer{"random", false, random, false, "random numbers from --seed", "baseline"}};

}  // namespace

std::vector<double> comparable_scores(const ExpertScorer& scorer, const ExpertEvidence& evidence,
                                      std::uint64_t seed) {
  std::vector<double> scores = scorer.score(evidence, seed);
  if (!scorer.grows_with_outputs || evidence.mean_residual <= 0.0) return scores;
  for (double& score : scores) score /= evidence.mean_residual;
  return scores;
}

std::span<const ExpertScorer> expert_scorers() { return kExpertScorers; }

const ExpertScorer& expert_scorer(std::string_view name) {
  std::string known;
  for (const ExpertScorer& scorer : kExpertScorers) {
    if (scorer.name == name) return scorer;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", scorer.name);
  }
  bad_usage("--score: found '{}', expected of experts one of {}", name, known);
}

std::vector<std::int64_t> super_experts(const ExpertEvidence& e) {
  std::vector<double> seen;
  for (std::size_t j = 0; j < e.tokens.size(); ++j) {
    if (e.tokens[j] > 0) seen.push_back(e.largest[j]);
  }
  std::vector<std::int64_t> found;
  if (seen.empty()) return found;
  const auto middle = seen.begin() + static_cast<std::ptrdiff_t>(seen.size() / 2);
  std::nth_element(seen.begin(), middle, seen.end());
  for (std::int64_t j = 0; j < e.num_experts(); ++j) {
    const double largest = e.largest[static_cast<std::size_t>(j)];
    if (largest > kSuperTimesMedian * *middle && largest >= kSuperShare * e.largest_residual)
      found.push_back(j);
  }
  return found;
}

std::vector<std::int64_t> best_experts(std::span<const double> scores, std::int64_t count,
                                       std::int64_t num_groups, std::span<const std::int64_t> always) {
  const std::int64_t experts = std::ssize(scores), a_group = experts / num_groups;
  expect(count <= experts && count % num_groups == 0 && experts % num_groups == 0,
         "best_experts: as many a group");
  std::vector<double> ranks(scores.begin(), scores.end());
  for (const std::int64_t j : always)
    ranks[static_cast<std::size_t>(j)] = std::numeric_limits<double>::infinity();
  std::vector<std::int64_t> kept;
  for (std::int64_t g = 0; g < num_groups; ++g) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(a_group));
    std::iota(order.begin(), order.end(), g * a_group);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return ranks[static_cast<std::size_t>(a)] > ranks[static_cast<std::size_t>(b)];
    });
    kept.insert(kept.end(), order.begin(), order.begin() + count / num_groups);
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

}  // namespace swiftprune
