// What a device has of scores, selections, refinements, patterns and model features. A plan or a model that
// asks for more is refused before any work, by name and with what the device has: nothing is ignored.
#pragma once

#include <cstdint>
#include <set>
#include <string_view>
#include <vector>

#include "swiftprune/model/model_features.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/refinement/refine_spec.h"
#include "swiftprune/scoring/score_spec.h"
#include "swiftprune/selection/selector.h"

namespace swiftprune {

// A refinement and the patterns that it keeps on the device.
struct RefineAbility {
  RefinePart part;  // with any options
  std::vector<Pattern::Kind> patterns;
  bool grids = false;  // weights on a grid of few bits, where it is the last one
};

struct Capabilities {
  std::string_view where;    // "on a GPU"
  std::string_view instead;  // "use --device cpu"

  // Scores of the statistics alone run wherever the statistics that they read lie on the host.
  StatNeeds score_statistics;
  bool reads_weights = false;                // any score that reads weights
  std::vector<const ScoreKind*> own_scores;  // what the device computes in a way of its own

  std::vector<SelectKind> selections;
  std::vector<Pattern::Kind> patterns;  // without a refinement
  std::vector<RefineAbility> refinements;
  bool chains = false;             // refinements joined by '+'
  bool mixed_refinements = false;  // different ones for the linears of one input
  bool ranks = false;              // several processes that prune together
  bool narrows_experts = false;    // takes inner channels out of experts
  bool permutations = false;       // orders of inputs that suit N:M (Plan::permute)
  bool low_rank = false;           // parts beside the weights (PlanEntry::low_rank)

  std::set<ModelFeature> features;
  std::int64_t max_head_size = 0;  // 0: any

  bool has(const ScoreSpec& score) const;
};

const Capabilities& cpu_capabilities();  // everything

// Throws Error{kUsage} for the first thing that the device has not, with what it has.
void check_plan(const Plan& plan, SelectKind select, const Capabilities& device);
void check_model(const ModelConfig& model, const Capabilities& device);
// Throws Error{kUsage} for a model with experts, which `what` is not defined for, with what there is instead.
void check_without_experts(const ModelConfig& model, std::string_view what, std::string_view instead);

}  // namespace swiftprune
