#include "swiftprune/tune/method_parameters.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/overloaded.h"
#include "swiftprune/evaluation/divergence.h"

namespace swiftprune {
namespace {

constexpr double kMoreThanInterval = 1.5;
constexpr int kPasses = 2;

constexpr std::array kAllNames = {"steps",     "damping",  "rho",        "alpha",     "beta",   "swaps",
                                  "act-order", "exponent", "ewma-alpha", "ewma-beta", "windows"};

class Parameters {
 public:
  explicit Parameters(const MethodSetup& setup) : setup_(setup) {}

  std::vector<MethodParameter> all() {
    const auto& parts = setup_.method.refine.parts();
    for (std::size_t i = 0; i < parts.size(); ++i) add_part(i, parts[i]);
    add_score();
    if (setup_.method.select == SelectKind::kEwma) {
      add_selector("ewma-alpha", &SelectorOptions::alpha);
      add_selector("ewma-beta", &SelectorOptions::beta);
    }
    if (setup_.method.windows > 0 && setup_.windows > 1) {
      const auto windows = static_cast<double>(setup_.windows);
      add(
          "windows", {std::floor(windows / 4.0), std::floor(windows / 2.0)}, 1.0, windows,
          [](const MethodSetup& s) { return static_cast<double>(s.windows); },
          [](double value, MethodSetup& s) { s.windows = std::llround(value); });
    }
    return std::move(found_);
  }

 private:
  // others: values beside the setup's own; those outside [low, high] are left out.
  void add(std::string name, std::vector<double> others, double low, double high,
           std::function<double(const MethodSetup&)> get, std::function<void(double, MethodSetup&)> set) {
    MethodParameter parameter{std::move(name), std::move(others), std::move(get), std::move(set)};
    const double own = parameter.get(setup_);
    std::erase_if(parameter.grid, [&](double v) { return v < low || v > high || v == own; });
    parameter.grid.push_back(own);
    std::sort(parameter.grid.begin(), parameter.grid.end());
    found_.push_back(std::move(parameter));
  }

  // A number of the refinement's part i, which is an `Options`.
  template <class Options, class Number>
  void add_number(std::size_t i, const char* name, Number Options::*number, std::vector<double> others,
                  double low, double high) {
    add(
        name, std::move(others), low, high,
        [=](const MethodSetup& s) {
          return static_cast<double>(std::get<Options>(s.method.refine.parts()[i]).*number);
        },
        [=](double value, MethodSetup& s) {
          std::vector<RefinePart> parts = s.method.refine.parts();
          auto& options = std::get<Options>(parts[i]);
          options.*number = static_cast<Number>(value);
          if constexpr (requires { options.ramp; }) {
            if (std::string_view(name) == "steps") options.ramp = default_ramp(options.steps);
          }
          s.method.refine = RefineSpec(std::move(parts));
        });
  }
  template <class Options>
  void add_steps(std::size_t i, const char* name, int Options::*steps, const Options& own) {
    const int now = own.*steps;
    add_number(i, name, steps, {std::floor(now / 2.0), 2.0 * now}, 1.0, 1000.0);
  }
  template <class Options>
  void add_factor(std::size_t i, const char* name, double Options::*number, const Options& own) {
    const double now = own.*number;
    add_number(i, name, number, {0.1 * now, 0.3 * now, 3.0 * now, 10.0 * now}, 1e-6, 1e3);
  }
  template <class Options>
  void add_share(std::size_t i, const char* name, double Options::*number, const Options& own) {
    const auto by = [now = own.*number](double step) { return std::round(100.0 * (now + step)) / 100.0; };
    add_number(i, name, number, {by(-0.3), by(-0.15), by(0.15), by(0.3)}, 0.0, 1.0);
  }

  void add_part(std::size_t i, const RefinePart& part) {
    std::visit(
        Overloaded{
            [&](const PcgOptions& own) {
              add_steps(i, "steps", &PcgOptions::steps, own);
              add_factor(i, "damping", &PcgOptions::damping, own);
            },
            [&](const AdmmOptions& own) {
              add_steps(i, "steps", &AdmmOptions::steps, own);
              add_factor(i, "damping", &AdmmOptions::damping, own);
              add_factor(i, "rho", &AdmmOptions::rho, own);
            },
            [&](const AlignedAdmmOptions& own) {
              add_share(i, "alpha", &AlignedAdmmOptions::alpha, own);
              add_share(i, "beta", &AlignedAdmmOptions::beta, own);
              add_steps(i, "steps", &AlignedAdmmOptions::steps, own);
            },
            [&](const SwapsOptions& own) { add_steps(i, "swaps", &SwapsOptions::max_swaps, own); },
            [&](const SparseGptOptions& own) { add_factor(i, "damping", &SparseGptOptions::damping, own); },
            [](const RtnOptions&) {},
            [&](const GptqOptions& own) {
              add_factor(i, "damping", &GptqOptions::damping, own);
              add_number(i, "act-order", &GptqOptions::act_order, {0.0, 1.0}, 0.0, 1.0);
            }},
        part);
  }

  static ScoreSpec& score_of(MethodSetup& setup) {
    return setup.by_patterns ? setup.method.n_m_score : setup.method.score;
  }
  static const ScoreSpec& score_of(const MethodSetup& setup) {
    return setup.by_patterns ? setup.method.n_m_score : setup.method.score;
  }
  // A seed is not a parameter to find: whatever it gives is chance.
  void add_score() {
    const ScoreSpec& score = score_of(setup_);
    const ScoreParameter& parameter = score.kind().parameter;
    if (!parameter.meaning.starts_with("exponent")) return;
    const double now = score.parameter();
    const auto by = [now](double step) { return std::round(100.0 * (now + step)) / 100.0; };
    add(
        "exponent", {by(-0.4), by(-0.2), by(0.2), by(0.4)}, parameter.range.min, parameter.range.max,
        [](const MethodSetup& s) { return score_of(s).parameter(); },
        [](double value, MethodSetup& s) { score_of(s) = ScoreSpec(score_of(s).kind(), value); });
  }

  void add_selector(const char* name, double SelectorOptions::*number) {
    const double now = setup_.selector.*number;
    add(
        name, {0.25 * now, 0.5 * now, 2.0 * now, 4.0 * now}, 1e-6, 1.0,
        [number](const MethodSetup& s) { return s.selector.*number; },
        [number](double value, MethodSetup& s) { s.selector.*number = value; });
  }

  const MethodSetup& setup_;
  std::vector<MethodParameter> found_;
};

double mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// One pass after the other over the parameters; stops where there is no time left.
class Search {
 public:
  Search(const MethodSetup& own, std::span<const MethodParameter> parameters, const MeasureSetups& measure)
      : own_(own), parameters_(parameters), measure_(measure), best_(own) {}

  ParameterSearch run() {
    const auto first = measure_({&own_, 1});
    result_.whole = first.has_value();
    if (!first) return std::move(result_);
    of_best_ = first->front();
    add_trial("", 0.0, of_best_);
    for (int pass = 0; pass < kPasses && result_.whole; ++pass) {
      bool changed = false;
      for (const MethodParameter& parameter : parameters_) {
        // In the second pass nothing new is learned of the parameter that was changed last.
        if (pass > 0 && parameter.name == last_changed_) break;
        changed |= try_parameter(parameter);
        if (!result_.whole) break;
      }
      if (!changed) break;
    }
    for (const MethodParameter& parameter : parameters_) {
      const double value = parameter.get(best_);
      if (value != parameter.get(own_)) result_.found.emplace_back(parameter.name, value);
    }
    return std::move(result_);
  }

 private:
  ParameterTrial& add_trial(const std::string& name, double value, const SetupMeasurement& of) {
    ParameterTrial trial{name, value, mean(of.search_kl), of.check_kl, 0.0, 0.0, false, of.seconds};
    if (!name.empty()) {
      trial.difference = trial.search_kl - mean(of_best_.search_kl);
      trial.noise = paired_noise(of_best_.search_kl, of.search_kl);
    }
    return result_.trials.emplace_back(std::move(trial));
  }

  bool try_parameter(const MethodParameter& parameter) {
    struct Side {
      std::ptrdiff_t step, at;
      double last;  // mean of the value before
    };
    const auto& grid = parameter.grid;
    const auto now = std::find(grid.begin(), grid.end(), parameter.get(best_)) - grid.begin();
    const double before = mean(of_best_.search_kl);
    std::vector<Side> sides = {{-1, now, before}, {+1, now, before}};
    std::optional<std::size_t> winner;  // of the trials
    SetupMeasurement of_winner;
    while (true) {
      std::vector<MethodSetup> setups;
      std::erase_if(sides,
                    [&](const Side& s) { return s.at + s.step < 0 || s.at + s.step >= std::ssize(grid); });
      for (Side& side : sides) {
        side.at += side.step;
        parameter.set(grid[static_cast<std::size_t>(side.at)], setups.emplace_back(best_));
      }
      if (setups.empty()) break;
      const auto measured = measure_(setups);
      if (!measured) {
        result_.whole = false;
        break;
      }
      std::vector<Side> falling;
      for (std::size_t i = 0; i < sides.size(); ++i) {
        const SetupMeasurement& of = (*measured)[i];
        const ParameterTrial& trial =
            add_trial(parameter.name, grid[static_cast<std::size_t>(sides[i].at)], of);
        const bool counts = trial.difference < -trial.noise;
        if (counts && (!winner || trial.search_kl < result_.trials[*winner].search_kl)) {
          winner = result_.trials.size() - 1;
          of_winner = of;
        }
        if (trial.search_kl >= sides[i].last) continue;
        falling.push_back(sides[i]);
        falling.back().last = trial.search_kl;
      }
      sides = std::move(falling);
    }
    if (!winner) return false;
    ParameterTrial& taken = result_.trials[*winner];
    taken.taken = true;
    parameter.set(taken.value, best_);
    of_best_ = std::move(of_winner);
    last_changed_ = parameter.name;
    return true;
  }

  const MethodSetup& own_;
  const std::span<const MethodParameter> parameters_;
  const MeasureSetups& measure_;
  MethodSetup best_;
  SetupMeasurement of_best_;
  std::string last_changed_;
  ParameterSearch result_;
};

}  // namespace

std::string describe(const MethodSetup& setup) {
  const ScoreSpec& score = setup.by_patterns ? setup.method.n_m_score : setup.method.score;
  std::string text =
      fmt::format("{}, {}, {} windows", format(setup.method.refine), format(score), setup.windows);
  if (setup.method.select == SelectKind::kEwma)
    text += fmt::format(", ewma({},{})", setup.selector.alpha, setup.selector.beta);
  return text;
}

std::vector<MethodParameter> parameters_of(const MethodSetup& setup) { return Parameters(setup).all(); }

std::vector<MethodParameter> chosen_parameters(const MethodSetup& setup,
                                               const std::vector<std::string>& names) {
  std::vector<MethodParameter> all = parameters_of(setup);
  std::vector<std::string> own;
  for (const MethodParameter& parameter : all) own.push_back(parameter.name);
  if (own.empty()) {
    bad_usage("--parameters: the method {} has none that could be tried; leave the option out",
              setup.method.name);
  }
  if (names == std::vector<std::string>{"auto"}) return all;
  for (const std::string& name : names) {
    if (std::find(own.begin(), own.end(), name) != own.end()) continue;
    const bool is_known = std::find(kAllNames.begin(), kAllNames.end(), name) != kAllNames.end();
    if (!is_known) {
      bad_usage("--parameters: found '{}', expected auto or some of {}", name, fmt::join(own, ", "));
    }
    bad_usage("--parameters: found {}, which the method {} has not here; expected auto or some of {}{}", name,
              setup.method.name, fmt::join(own, ", "),
              name.starts_with("ewma-") ? "; --select ewma brings it" : "");
  }
  std::erase_if(all, [&](const MethodParameter& parameter) {
    return std::find(names.begin(), names.end(), parameter.name) == names.end();
  });
  return all;
}

double paired_noise(std::span<const double> a, std::span<const double> b) {
  const auto interval = paired_interval(a, b);
  expect(interval.has_value(), "paired_noise: two pairs at least");
  return kMoreThanInterval * interval->half;
}

ParameterSearch search_parameters(const MethodSetup& own, std::span<const MethodParameter> parameters,
                                  const MeasureSetups& measure) {
  return Search(own, parameters, measure).run();
}

MethodSetup with_parameters(MethodSetup setup, std::span<const std::pair<std::string, double>> found) {
  for (const MethodParameter& parameter : parameters_of(setup)) {
    for (const auto& [name, value] : found) {
      if (name == parameter.name) parameter.set(value, setup);
    }
  }
  return setup;
}

}  // namespace swiftprune
