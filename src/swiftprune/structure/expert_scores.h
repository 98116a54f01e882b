// How much each expert of a layer matters, from what the calibration text showed of it; and which stay. The lowest go.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "swiftprune/model/model_config.h"

#include "swiftprune/model/experts.h"

namespace swiftprune {

// Of one layer's experts, sums over the tokens T_j that are routed to expert j. g̃ are a token's weights renormalised
// to 1 over its experts, f_j(x) an expert's output without its weight.
struct ExpertEvidence {
  std::int64_t layer = 0;
  std::int64_t num_tokens = 0;       // of the text
  std::vector<std::int64_t> tokens;  // [E] |T_j|
  std::vector<double> shares;        // [E] Σ g̃_j
  std::vector<double> norms;         // [E] Σ ‖f_j(x)‖
  std::vector<double> share_norms;   // [E] Σ g̃_j·‖f_j(x)‖
  std::vector<double> largest;       // [E] largest |element of g_j·f_j(x)|
  double largest_residual = 0.0;     // largest |element| of the hidden states behind the layer
  double mean_residual = 0.0;        // mean of their norms over the tokens
  // [E] change of the layer's output when the expert is gone and the router chooses again; empty unless it was asked
  // for (ExpertScorer::needs_changes).
  std::vector<double> changes;

  std::int64_t num_experts() const { return std::ssize(tokens); }
  // Entropy of the tokens' distribution over the experts, of log E: 1 when all are used alike.
  double routing_entropy() const { return swiftprune::routing_entropy(tokens); }
};

struct ExpertScorer {
  std::string_view name;
  bool needs_changes;
  std::vector<double> (*score)(const ExpertEvidence& evidence, std::uint64_t seed);  // [E]
  // Does it grow with the outputs, and so with the layer's depth? `ours` counts tokens by 1/|hidden state|² already.
  bool grows_with_outputs;
  std::string_view summary;
  std::string_view source;
};
// Scores of a layer that can be held beside another layer's: those that grow with the outputs are divided by the mean
// norm of the hidden states that the outputs join.
std::vector<double> comparable_scores(const ExpertScorer& scorer, const ExpertEvidence& evidence,
                                      std::uint64_t seed);
std::span<const ExpertScorer> expert_scorers();
// Throws Error{kUsage} naming --score, with the list.
const ExpertScorer& expert_scorer(std::string_view name);

// Experts whose outputs make the massive activations that later layers lean on (arXiv 2507.23279): the largest
// element is more than kSuperTimesMedian times the median over the layer's experts that have tokens, and at least
// kSuperShare of the largest of the hidden states behind the layer. Rising.
inline constexpr double kSuperTimesMedian = 10.0;
inline constexpr double kSuperShare = 0.1;
std::vector<std::int64_t> super_experts(const ExpertEvidence& evidence);

// The `count` experts that stay, rising: those of `always`, then the highest scores; as many of each group; ties go
// to the lower index. count is a multiple of num_groups.
std::vector<std::int64_t> best_experts(std::span<const double> scores, std::int64_t count,
                                       std::int64_t num_groups, std::span<const std::int64_t> always);

}  // namespace swiftprune
