// The numbers of a method that `tune --parameters` may change, each with a small grid of values around its own, and the
// search among them: one parameter after the other, each trial a prune of the model, measured on the search's text. What
// is tried comes from outside, so nothing here knows a model.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "swiftprune/pipeline/method.h"
#include "swiftprune/selection/selector.h"

namespace swiftprune {

// How a plan is carried out.
struct MethodSetup {
  Method method{};
  SelectorOptions selector;  // of method.select
  std::int64_t windows = 0;  // of calibration text
  bool by_patterns = false;  // N:M: method.n_m_score counts, not method.score
};
// What two setups differ in, where they do anything else: "aligned-admm(20,15), wanda, 8 windows".
std::string describe(const MethodSetup& setup);

struct MethodParameter {
  std::string name;          // "alpha"
  std::vector<double> grid;  // rising, the setup's own among them
  std::function<double(const MethodSetup&)> get;
  std::function<void(double, MethodSetup&)> set;
};
// All that the setup has, in the order in which they are tried.
std::vector<MethodParameter> parameters_of(const MethodSetup& setup);
// Those of these names; of "auto" all. Throws Error{kUsage} naming --parameters for names that no method has, or not this
// one, and where there is none.
std::vector<MethodParameter> chosen_parameters(const MethodSetup& setup,
                                               const std::vector<std::string>& names);

// Of one setup: mean divergence of each window of the search's text, and of all of the check's.
struct SetupMeasurement {
  std::vector<double> search_kl;
  double check_kl = 0.0;
  double seconds = 0.0;
};
// Of each of these, or nothing where there is no time left for them.
using MeasureSetups =
    std::function<std::optional<std::vector<SetupMeasurement>>(std::span<const MethodSetup> setups)>;

struct ParameterTrial {
  std::string parameter;  // empty: the method as it is
  double value = 0.0;
  double search_kl = 0.0, check_kl = 0.0;
  // Of the windows' divergences against the best setup before this parameter, in pairs: the mean, and what it must fall
  // below zero by to count (paired_noise()).
  double difference = 0.0, noise = 0.0;
  bool taken = false;
  double seconds = 0.0;
};
struct ParameterSearch {
  std::vector<std::pair<std::string, double>> found;  // what differs from the method's own
  std::vector<ParameterTrial> trials;
  bool whole = true;  // false: the time was over before
};

// From each parameter's own value outwards, on either side as long as the mean falls; the best of them is taken where it
// is better by more than the noise. Twice over all parameters, if the first time found something.
ParameterSearch search_parameters(const MethodSetup& own, std::span<const MethodParameter> parameters,
                                  const MeasureSetups& measure);
// `setup` with what was found. Parameters that `setup` has not are left out.
MethodSetup with_parameters(MethodSetup setup, std::span<const std::pair<std::string, double>> found);

// One and a half times the half width of the 95 % interval of the mean of b - a (Student's t): a search makes some ten
// trials, of which a few would leave the interval itself by chance. At least two pairs.
double paired_noise(std::span<const double> a, std::span<const double> b);

}  // namespace swiftprune
