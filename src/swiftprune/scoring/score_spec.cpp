#include "swiftprune/scoring/score_spec.h"

#include <vector>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {

std::span<const ScoreKind* const> score_kinds() { return kScoreKinds; }

ScoreSpec::ScoreSpec() : ScoreSpec(kMagnitudeScore) {}

ScoreSpec::ScoreSpec(const ScoreKind& kind) : kind_(&kind), parameter_(kind.parameter.fallback) {}

ScoreSpec::ScoreSpec(const ScoreKind& kind, double parameter) : kind_(&kind), parameter_(parameter) {
  expect(!kind.parameter.meaning.empty() && kind.parameter.range.holds(parameter),
         "ScoreSpec: a parameter in the score's range");
}

ScoreSpec parse_score(std::string_view text, std::span<const ScoreKind* const> kinds) {
  const NamedNumbers parsed = parse_named_numbers(text);
  std::vector<std::string_view> known;
  for (const ScoreKind* kind : kinds) {
    known.push_back(kind->name);
    if (kind->name != parsed.name) continue;
    const ScoreParameter& parameter = kind->parameter;
    const bool given = !parsed.numbers.empty();
    if (!parsed.well_formed || parsed.numbers.size() > (parameter.meaning.empty() ? 0 : 1) ||
        (given && !parameter.range.holds(parsed.numbers.front()))) {
      bad_usage(
          "score: found '{}', expected {}", text,
          parameter.meaning.empty()
              ? fmt::format("'{}' without a parameter", kind->name)
              : fmt::format("{}(number) with a number from {:g} to {:g}: {}, default {}", kind->name,
                            parameter.range.min, parameter.range.max, parameter.meaning, parameter.fallback));
    }
    ScoreSpec spec = given ? ScoreSpec(*kind, parsed.numbers.front()) : ScoreSpec(*kind);
    spec.text_ = text;
    return spec;
  }
  bad_usage("score: found '{}', expected one of {}", text, fmt::join(known, ", "));
}

std::string format(const ScoreSpec& spec) {
  if (!spec.text_.empty()) return spec.text_;
  if (spec.kind_->parameter.meaning.empty()) return std::string(spec.kind_->name);
  return print_named_numbers(spec.kind_->name, std::span(&spec.parameter_, 1));
}

}  // namespace swiftprune
