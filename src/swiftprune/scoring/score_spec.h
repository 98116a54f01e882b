// A score with its option: read once from text ("ria(0.5)"), printed back as it was given, and handed on as
// this value. A score is a ScoreKind, one constant in the file of its name: everything that the pipeline and
// its devices ask of it stands there.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "swiftprune/backend/backend.h"
#include "swiftprune/core/named_numbers.h"
#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/scoring/scores.h"

namespace swiftprune {

// What a score reads beside the weights.
struct ScoreInput {
  double parameter = 0.0;
  std::int64_t num_inputs = 0;  // I
  const LayerStats& stats;
  const Backend& backend;
  std::string_view tensor;  // the name for messages
};

struct ScoreParameter {
  std::string_view meaning;  // empty: the score takes none
  double fallback = 0.0;
  NumberRange range{};
};

struct ScoreKind {
  std::string_view name;
  std::string_view summary;
  std::string_view source;
  StatNeeds needs{};
  ScoreParameter parameter{};
  // One of the two. Factors of |w| that come from the statistics alone: every device that has the statistics
  // computes them so. Or anything else: a device without a way of its own for it refuses the plan.
  Scores (*from_statistics)(const ScoreInput& input) = nullptr;
  Scores (*from_weights)(WeightView weight, const ScoreInput& input) = nullptr;

  bool reads_weights() const { return from_weights != nullptr; }
};

// The scores that exist (scorer_list.h).
std::span<const ScoreKind* const> score_kinds();

class ScoreSpec {
 public:
  ScoreSpec();                                // magnitude
  explicit ScoreSpec(const ScoreKind& kind);  // with the parameter's default
  ScoreSpec(const ScoreKind& kind, double parameter);

  const ScoreKind& kind() const { return *kind_; }
  double parameter() const { return parameter_; }
  const StatNeeds& needs() const { return kind_->needs; }
  bool reads_weights() const { return kind_->reads_weights(); }
  bool operator==(const ScoreSpec& other) const {
    return kind_ == other.kind_ && parameter_ == other.parameter_;
  }

 private:
  friend ScoreSpec parse_score(std::string_view text, std::span<const ScoreKind* const> kinds);
  friend std::string format(const ScoreSpec& spec);

  const ScoreKind* kind_;
  double parameter_;
  std::string text_;  // as it was given, for records; else empty
};

// A name of the list, with its parameter in brackets when it takes one. Throws Error{kUsage}.
ScoreSpec parse_score(std::string_view text, std::span<const ScoreKind* const> kinds = score_kinds());
// The text that was parsed, or one that parses into an equal spec.
std::string format(const ScoreSpec& spec);

}  // namespace swiftprune
