#include "swiftprune/scoring/scorer.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "swiftprune/core/error.h"
#include "swiftprune/scoring/damped_inverse.h"
#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

struct Entry {
  ScorerInfo info;
  double fallback = 0.0;  // the parameter's default
  double min = 0.0;
  double max = 0.0;
  bool whole = false;
  std::unique_ptr<Scorer> (*make)(double);
};

constexpr std::array kScorers = {
    Entry{.info = {"magnitude", "", "|w|", "LeCun et al. 1989; Han et al. 2015"},
          .make = make_magnitude_scorer},
    Entry{.info = {"random", "seed, default 0", "uniform random numbers", "baseline"},
          .max = 9007199254740992.0,  // whole numbers that a double holds
          .whole = true,
          .make = make_random_scorer},
    Entry{.info = {"paper", "", "w² / (1 - e_j/(S + ε))", "SwiftPrune"}, .make = make_paper_scorer},
    Entry{.info = {"contribution", "", "w²·EWMA over windows of e_j", "SwiftPrune"},
          .make = make_contribution_scorer},
    Entry{.info = {"wanda", "", "|w|·√e_j", "arXiv 2306.11695"}, .make = make_wanda_scorer},
    Entry{.info = {"ria", "exponent a, default 0.7 (published: 0.5)",
                   "(|w|/column sum + |w|/row sum)·(e_j/N)^(a/2)", "Zhang et al., ICLR 2024"},
          .fallback = 0.7,
          .max = 4.0,
          .make = make_ria_scorer},
    Entry{.info = {"stade", "", "|w|·std(x_j)", "arXiv 2503.22451"}, .make = make_stade_scorer},
    Entry{.info = {"obs", "", "w² / [(XᵀX + damping)⁻¹]_jj", "Hassibi and Stork 1992"},
          .make = make_obs_scorer},
};

constexpr auto kInfos = [] {
  std::array<ScorerInfo, kScorers.size()> infos;
  for (std::size_t i = 0; i < infos.size(); ++i) infos[i] = kScorers[i].info;
  return infos;
}();

void check_statistic(std::span<const double> values, std::string_view what, std::int64_t num_inputs,
                     bool non_negative, std::string_view tensor) {
  expect(static_cast<std::int64_t>(values.size()) == num_inputs,
         "score: statistics [I] that the score needs");
  for (std::size_t j = 0; j < values.size(); ++j) {
    if (std::isfinite(values[j]) && (values[j] >= 0.0 || !non_negative)) continue;
    bad_input(
        "{}: {} of the calibration activations: found {} at input {}, expected a finite number; "
        "does the model give finite outputs?",
        tensor, what, values[j], j);
  }
}

}  // namespace

Scores Scorer::score(WeightView weight, const LayerStats& stats, const Backend& backend,
                     std::string_view tensor) const {
  const StatNeeds need = needs();
  if (need.energy) check_statistic(stats.energy, "energy", weight.cols, true, tensor);
  if (need.ewma_energy) check_statistic(stats.ewma_energy, "EWMA energy", weight.cols, true, tensor);
  if (need.sum) check_statistic(stats.sum, "sum", weight.cols, false, tensor);
  if (need.gram) check_gram(stats.gram, weight.cols, tensor);
  return do_score(weight, stats, backend, tensor);
}

std::span<const ScorerInfo> scorers() { return kInfos; }

std::unique_ptr<Scorer> make_scorer(std::string_view spec) {
  const std::size_t bracket = spec.find('(');
  const std::string_view name = spec.substr(0, bracket);
  std::string known;
  for (const Entry& entry : kScorers) {
    known += fmt::format("{}{}", known.empty() ? "" : ", ", entry.info.name);
    if (entry.info.name != name) continue;
    if (bracket == std::string_view::npos) return entry.make(entry.fallback);
    const std::string_view number =
        spec.ends_with(')') ? spec.substr(bracket + 1, spec.size() - bracket - 2) : std::string_view{};
    double parameter = 0.0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), parameter);
    const bool parsed = error == std::errc{} && end == number.data() + number.size() && !number.empty();
    if (entry.info.parameter.empty() || !parsed || !(parameter >= entry.min && parameter <= entry.max) ||
        (entry.whole && parameter != std::floor(parameter))) {
      bad_usage("score: found '{}', expected {}", spec,
                entry.info.parameter.empty() ? fmt::format("'{}' without a parameter", name)
                                             : fmt::format("{}(number) with a number from {:g} to {:g}: {}",
                                                           name, entry.min, entry.max, entry.info.parameter));
    }
    return entry.make(parameter);
  }
  bad_usage("score: found '{}', expected one of {}", spec, known);
}

}  // namespace swiftprune
