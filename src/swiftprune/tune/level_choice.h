// The levels that `tune` solves every linear at, before anything is solved: what one takes in the budget's unit, the start
// plan, and the levels beside it. Levels are shares of zeros, or one of a few choices: grids of few bits with zeros, N:M
// patterns, both.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/tune/decode_times.h"
#include "swiftprune/tune/level_store.h"
#include "swiftprune/tune/tune.h"

namespace swiftprune {

// Score and refinement of the entry's pattern.
void set_method(const Method& method, PlanEntry& entry);

class LevelChoice {
 public:
  // times: of a budget in tokens a second, else null. Keeps references. Throws Error{kUsage} for options that contradict
  // each other or leave nothing to tune.
  LevelChoice(const Model& model, const TuneOptions& options, DecodeTimes* times);

  // About at the budget: one share for all, whose spread an allocation finds, or one of the choices for all. Throws
  // Error{kUsage} for a budget that no plan meets, with the nearest that one does.
  Plan start_plan() const;
  // Of each entry of the plan that is pruned, levels beside its own.
  std::vector<std::vector<PlanEntry>> levels_beside(const Plan& plan) const;
  // Is the start's spread an allocation's?
  bool allocates() const { return !has_choices(); }
  void set_level(const SolvedLevel& level, PlanEntry& entry) const;
  // The options' method as it is by now; levels stay, but for row budgets that the selection has not.
  void set_method(Plan& plan) const;

  // In the budget's unit: weights that are kept, bytes, or microseconds. Of a level: `zeros` counts, not what was asked for.
  double size(const PlanEntry& entry, const SolvedLevel& level) const;
  double max_size() const;  // that the budget leaves the tuned linears together; not of a divergence
  // What a size of all tuned linears together is, as the budget says it: "90.3 MB", "55 tokens/s".
  std::string text_of(double size) const;

  double packed_bytes(const PlanEntry& entry, const SolvedLevel& level) const;
  double fixed_bytes() const { return fixed_bytes_; }  // of everything but the tuned linears
  double num_weights() const { return num_weights_; }  // of all linears
  double num_tuned_weights() const { return num_tuned_; }
  // Microseconds of all tuned linears as they are; only with times.
  double dense_us() const { return dense_us_; }

 private:
  // A choice for all linears.
  struct Choice {
    SolvedLevel level;
    double size = 0.0;  // of all tuned linears
    double cost = 0.0;  // expected, up to a factor: tells choices of one size apart before they are solved
  };
  const TuneBudget& budget() const { return options_.budget; }
  bool has_grids() const { return !options_.bits.empty(); }
  bool has_choices() const { return has_grids() || !options_.patterns.empty(); }
  bool counts_bytes() const;
  bool takes_row_budgets(const PlanEntry& entry) const;
  void count_bytes();
  void check_options() const;
  double total(const SolvedLevel& level) const;
  std::vector<Choice> choices() const;
  std::vector<Choice> useful_choices() const;
  double aimed_size() const;
  double uniform_share() const;
  SolvedLevel uniform_choice() const;

  const Model& model_;
  const TuneOptions& options_;
  DecodeTimes* const times_;
  Plan plan_;  // of all linears, at no level yet
  double fixed_bytes_ = 0.0, num_weights_ = 0.0, num_tuned_ = 0.0, dense_us_ = 0.0;
  bool packs_ = true;  // the tuned linears
};

}  // namespace swiftprune
