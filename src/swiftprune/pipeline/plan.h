// What is done to each linear of the model: the one thing that prune() executes. Options, overrides by name,
// allocation and a plan file all end up here, and the plan that was used is written beside the result, to be
// edited and run again.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/model/model.h"
#include "swiftprune/refinement/refine_spec.h"
#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/scoring/score_spec.h"
#include "swiftprune/selection/pattern.h"
#include "swiftprune/tensor/quantized_weight.h"

namespace swiftprune {

struct PlanEntry {
  std::string tensor;  // "model.layers.0.mlp.up_proj.weight"
  std::int64_t layer = 0;
  LinearInput input = LinearInput::kAttention;
  std::int64_t rows = 0;  // outputs
  std::int64_t cols = 0;  // inputs
  bool prune = true;
  Pattern pattern;
  double sparsity = 0.0;  // of unstructured and block patterns
  bool row_budgets =
      false;           // Kind::kRow: rows of little effect lose more (row_budgets.h), else all lose the same
  bool fixed = false;  // asked for by name: allocation leaves it as it is
  ScoreSpec score;
  RefineSpec refine;
  std::optional<QuantGrid> grid;  // that the refinement puts the weights on
  std::int64_t expert = -1;       // -1: every token passes it
  // Does calibration see its inputs? Not those of q_b_proj and kv_b_proj in latent attention: they are pruned by their
  // weights alone or not at all.
  bool observed = true;
  std::int64_t first_input = 0;  // where its inputs begin in what is observed
  std::int64_t low_rank = 0;     // of the part that the refinement finds beside the weights; 0: none
  bool fixed_grid = false;       // asked for by name: a choice of bits leaves it as it is

  double num_weights() const { return static_cast<double>(rows) * static_cast<double>(cols); }
  bool has_row_budgets() const { return prune && row_budgets && pattern.kind == Pattern::Kind::kRow; }
  double asked_sparsity() const;  // 0 when not pruned; of N:M 1 - N/M
  PruneTarget target(PruneTarget::Rounding rounding) const;
};
// What its score and refinement read.
StatNeeds stat_needs(const PlanEntry& entry);

// Which output projections' inputs change their places so that an N:M pattern loses less (model/channel_fold.h).
enum class Permute { kNone, kMlp, kAll };  // none; those of down; those of o as well
std::string_view name_of(Permute permute);
Permute parse_permute(std::string_view text, std::string_view where);  // throws Error{kUsage} naming `where`

struct Plan {
  std::vector<PlanEntry> entries;  // in the order of block_weights() (model/stored_weights.h)
  // How a share becomes a number of weights: rounded down in each row as in the published methods, or once a
  // matrix.
  PruneTarget::Rounding rounding = PruneTarget::Rounding::kFloor;
  Permute permute = Permute::kNone;

  // Share of the weights of all entries that the plan prunes.
  double sparsity() const;
  bool quantizes() const;         // any entry
  std::int64_t low_rank() const;  // the largest of the entries
};

// The same entry for every linear, an expert's too, but for those whose name a shell pattern of `skip` matches
// ("*.k_proj.weight", "model.layers.0.*"): they stay dense. Throws Error{kUsage} for a pattern of `skip` that
// matches nothing and Error{kBadInput} for a sparsity pattern that does not divide a tensor's inputs.
struct PlanDefaults {
  Pattern pattern;
  double sparsity = 0.5;
  ScoreSpec score;
  RefineSpec refine;
  std::optional<QuantGrid> grid = {};
  std::int64_t low_rank = 0;
};
// Inputs of a group where none are asked for: QuantGrid's, or where they do not divide every linear's width the
// next that do, or whole rows (0).
std::int64_t default_group(const ModelConfig& model);
inline constexpr std::string_view kGroupHelp =
    "With --quantize: inputs that share a scale: 32, 64, 128 or row; by default 64, or where these do not "
    "divide every width 32, or row";
Plan uniform_plan(const Model& model, const PlanDefaults& defaults, const std::vector<std::string>& skip);

// Does the pattern fix another sparsity?
bool contradicts(const Pattern& pattern, double sparsity);

// Other settings for the linears whose name a shell pattern matches: "sparsity=0.3",
// "pattern=2:4,refine=none"; the keys are those of a plan file. Throws Error{kUsage} for a pattern that
// matches nothing, unknown keys and values out of range.
void apply_override(const std::string& name_pattern, const std::string& settings, Plan& plan);

// {"rounding": "row" or "matrix", "permute": "mlp" or "all" (or left out), "tensors": [{"name", "prune", "pattern", "sparsity",
// "row_budgets", "score", "refine", "quantize", "low_rank", "shape"}...]}; what the file does not name keeps its default. Throws
// Error{kBadInput} with the file's name and the place for unknown tensors, doubles and values out of range.
void apply_plan_file(const std::string& path, Plan& plan);
nlohmann::ordered_json to_json(const Plan& plan);
// The same of a document that to_json() made; `where` names it in messages.
void apply_plan(const nlohmann::json& document, const std::string& where, Plan& plan);

}  // namespace swiftprune
