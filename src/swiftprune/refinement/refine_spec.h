// A refinement with its options: one part or several joined by '+', each of which continues from the one
// before. Read once from text ("admm(20,15)+pcg(20)"), printed back as it was given, and handed on as this
// value. The defaults of all options stand here.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/selection/pattern.h"

namespace swiftprune {

struct PcgOptions {  // pcg.h
  int steps = 20;
  double damping = 0.01;  // of the mean diagonal
  bool operator==(const PcgOptions&) const = default;
};

// The first step of admm with the full sparsity, where none is given: 3/4 of the steps, rounded.
constexpr int default_ramp(int steps) { return (3 * steps + 2) / 4; }

struct AdmmOptions {  // admm.h
  int steps = 20;
  int ramp = default_ramp(steps);  // the first step with the full sparsity
  double damping = 0.1;
  double rho = 1.0;
  double energy_floor = 0.0;  // n_j = √(G_jj + floor·mean G_jj) + 1e-8; not a number of the text
  bool operator==(const AdmmOptions&) const = default;
};

struct AlignedAdmmOptions {  // aligned_admm.h
  int steps = 20;
  int ramp = default_ramp(steps);
  double alpha = 0.35;  // share of the error of the inputs that is made up for
  double beta = 0.5;    // share of the error of the residual
  bool operator==(const AlignedAdmmOptions&) const = default;

  static constexpr double kEnergyFloor = 1e-8;
  AdmmOptions admm() const { return {.steps = steps, .ramp = ramp, .energy_floor = kEnergyFloor}; }
};

struct SwapsOptions {  // swaps.h
  int max_swaps = 50;  // in each row
  bool operator==(const SwapsOptions&) const = default;
};

struct SparseGptOptions {  // sparsegpt.h
  double damping = 0.01;   // of the mean diagonal
  bool operator==(const SparseGptOptions&) const = default;
};

struct RtnOptions {  // rounding.h
  bool operator==(const RtnOptions&) const = default;
};

struct GptqOptions {       // rounding.h
  double damping = 0.01;   // of the mean diagonal
  bool act_order = false;  // columns by falling diagonal, not as they are
  bool operator==(const GptqOptions&) const = default;
};

using RefinePart = std::variant<PcgOptions, AdmmOptions, AlignedAdmmOptions, SwapsOptions, SparseGptOptions,
                                RtnOptions, GptqOptions>;

// What the pipeline asks of a refinement.
struct RefineFacts {
  bool uses_gram = true;
  bool uses_mask = false;             // false: finds the mask itself, no scores are needed
  bool keeps_weights = false;         // kept weights stay as they are
  bool uses_alignment = false;        // reads LayerStats::cross and residual where they are given
  bool moves_single_weights = false;  // cannot keep the tiles of Pattern::Kind::kBlock
  bool finds_grid = false;            // can put the weights on a grid of few bits
  bool needs_grid = false;            // does nothing else
  bool works_by_rows = false;         // with patterns that choose within each row
  bool finds_low_rank = false;        // can find a low-rank part beside the weights, where it stands alone

  StatNeeds needs() const { return {.energy = uses_gram, .gram = uses_gram, .alignment = uses_alignment}; }
};
// Of "none": the dense weights under the mask.
inline constexpr RefineFacts kNoRefinement{.uses_gram = false, .uses_mask = true, .keeps_weights = true};

std::span<const RefinePart> all_refine_parts();    // each with its defaults
std::string_view name_of(const RefinePart& part);  // "admm"
RefineFacts facts_of(const RefinePart& part);
std::string format(const RefinePart& part);  // "admm(20,15)"

class RefineSpec {
 public:
  RefineSpec() = default;  // none
  // Throws Error{kUsage} for parts that cannot stand in this order.
  RefineSpec(std::vector<RefinePart> parts);

  const std::vector<RefinePart>& parts() const { return parts_; }  // empty: none
  bool is_none() const { return parts_.empty(); }
  RefineFacts facts() const;
  StatNeeds needs() const { return facts().needs(); }
  // Does each row come out the same when some rows of the weight are refined alone? Without a grid.
  bool works_by_rows(const Pattern& pattern) const;
  bool operator==(const RefineSpec& other) const { return parts_ == other.parts_; }

 private:
  friend RefineSpec parse_refine(std::string_view text);
  friend std::string format(const RefineSpec& spec);

  std::vector<RefinePart> parts_;
  std::string text_;  // as it was given, for records; else empty
};

struct RefinerInfo {
  std::string_view name;
  std::string_view summary;
  std::string_view source;
};
std::span<const RefinerInfo> refiners();  // "none" first, then in the order of RefinePart

std::vector<std::string_view> grid_refiners();      // those that put weights on a grid
std::vector<std::string_view> low_rank_refiners();  // those that find a low-rank part beside the weights

// "none", "admm", "admm(20,15)", "admm(20)+pcg(20)". Throws Error{kUsage}.
RefineSpec parse_refine(std::string_view text);
// The text that was parsed, or one that parses into an equal spec.
std::string format(const RefineSpec& spec);

// Throws Error{kUsage} naming the tensor for a pattern that the refinement cannot keep.
void check_pattern(const RefineFacts& facts, const Pattern& pattern, std::string_view tensor);

}  // namespace swiftprune
