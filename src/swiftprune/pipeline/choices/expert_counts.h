// How many experts each layer keeps where layers may differ (`shrink --units experts --non-uniform`): one threshold on
// the scores of all layers.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "swiftprune/model/model_config.h"
#include "swiftprune/structure/expert_scores.h"

namespace swiftprune {

struct ExpertSpread {
  double mean_left = 0.0;  // experts that a layer keeps in the mean, as asked for
  std::string_view flag;   // that asked, for messages
  const ExpertScorer* scorer = nullptr;
  std::uint64_t seed = 0;
  bool keep_super = true;
};

// Experts of all layers with the lowest comparable_scores() go, as many of each of a layer's groups, until as many are
// left as asked for. A layer keeps what its router needs, and its super experts. evidence: of each layer with experts, in
// order. Returns a number for each. Throws Error{kUsage} naming the flag where fewer cannot be left.
std::vector<std::int64_t> spread_experts(const ModelConfig& model, std::span<const ExpertEvidence> evidence,
                                         const ExpertSpread& spread);

// The fewest experts that the router of a layer with so many can choose from.
std::int64_t fewest_experts(const ExpertsConfig& experts);

}  // namespace swiftprune
