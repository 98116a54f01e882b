// Which weights go: scores and a target -> mask. The exact engines all prune the same set, the one of a
// stable ascending sort of the keys: equal scores are pruned from the lower index on. They differ in speed
// only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/scoring/scores.h"
#include "swiftprune/selection/pattern.h"
#include "swiftprune/tensor/mask.h"

namespace swiftprune {

struct SelectionReport {
  double sparsity = 0.0;            // achieved share of pruned weights
  std::optional<double> lambda{};   // `ewma`: the factor that was used
  std::int64_t missed_windows = 0;  // `ewma-window`: rows whose threshold lay outside the predicted window
};

struct Selection {
  Mask mask;  // [O, I]
  SelectionReport report;
};

class Selector {
 public:
  virtual ~Selector() = default;
  virtual std::string_view name() const = 0;

  // Throws Error{kBadInput} naming target.tensor, row and column when a score is not finite.
  Selection select(const ScoreView& scores, const PruneTarget& target) const;
  // The same, and the pruned weights become +0 in the same pass. `scores` belongs to `weight`. After an Error
  // the weights are partly pruned: drop them.
  Selection prune(MutableWeightView weight, const Scores& scores, const PruneTarget& target) const;

 private:
  // `pruned`: null, or the weights to zero (same shape as the scores).
  virtual SelectionReport do_select(const ScoreView& scores, const PruneTarget& target, Mask& mask,
                                    const MutableWeightView* pruned) const = 0;
};

enum class Isa { kBaseline, kAvx2, kAvx512 };

struct SelectorOptions {
  // Faithful EWMA (`ewma`): keep if L >= mean + lambda·dev; without lambda it is found by bisection.
  std::optional<double> lambda{};
  double alpha = 0.125;  // EWMA weight of the mean
  double beta = 0.125;   // EWMA weight of the deviation
  // Kernels to use; empty: the best that cpu_features() allows.
  std::optional<Isa> isa{};
};

enum class SelectKind {
  kEwmaWindow,
  kRadix,
  kSort,
  kEwma,
};
inline constexpr SelectKind kDefaultSelector = SelectKind::kEwmaWindow;

struct SelectorInfo {
  SelectKind kind;
  std::string_view name;
  std::string_view summary;
  std::string_view source;
};

std::span<const SelectorInfo> selectors();
std::string_view name_of(SelectKind kind);
SelectKind parse_select(std::string_view name);  // throws Error{kUsage}

// Throws Error{kUsage} for options out of range.
std::unique_ptr<Selector> make_selector(SelectKind kind, const SelectorOptions& options = {});

}  // namespace swiftprune
