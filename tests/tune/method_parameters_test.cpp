// Parameters of methods, and their search where the answer is known: divergences that a formula gives instead of a model.
#include "swiftprune/tune/method_parameters.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace swiftprune {
namespace {

using test::expect_error;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

MethodSetup setup_with(std::string_view method) { return {method_by_name(method), {}, 8, false}; }

std::vector<std::string> names_of(const MethodSetup& setup) {
  std::vector<std::string> names;
  for (const MethodParameter& parameter : parameters_of(setup)) names.push_back(parameter.name);
  return names;
}

TEST(MethodParametersTest, EachMethodHasItsOwn) {
  EXPECT_THAT(names_of(setup_with("best")), ElementsAre("alpha", "beta", "steps", "windows"));
  EXPECT_THAT(names_of(setup_with("obs")), ElementsAre("steps", "damping", "windows"));
  EXPECT_THAT(names_of(setup_with("sparsegpt")), ElementsAre("damping", "windows"));
  EXPECT_THAT(names_of(setup_with("gptq")), ElementsAre("damping", "act-order", "windows"));
  EXPECT_THAT(names_of(setup_with("frozen")), ElementsAre("swaps", "windows"));
  EXPECT_THAT(names_of(setup_with("ria")), ElementsAre("exponent", "windows"));
  EXPECT_THAT(names_of(setup_with("random")), IsEmpty());  // a seed is none
  MethodSetup fast = setup_with("fast");
  EXPECT_THAT(names_of(fast), ElementsAre("windows"));
  fast.by_patterns = true;
  EXPECT_THAT(names_of(fast), ElementsAre("exponent", "windows"));
  MethodSetup ewma = setup_with("wanda");
  ewma.method.select = SelectKind::kEwma;
  EXPECT_THAT(names_of(ewma), ElementsAre("ewma-alpha", "ewma-beta", "windows"));
}

TEST(MethodParametersTest, GridsHoldTheMethodsOwn) {
  for (const Method& method : methods()) {
    MethodSetup setup = setup_with(method.name);
    setup.method.select = SelectKind::kEwma;
    for (const MethodParameter& parameter : parameters_of(setup)) {
      SCOPED_TRACE(fmt::format("{}: {}", method.name, parameter.name));
      EXPECT_TRUE(std::is_sorted(parameter.grid.begin(), parameter.grid.end()));
      EXPECT_GE(parameter.grid.size(), 2u);
      EXPECT_EQ(std::count(parameter.grid.begin(), parameter.grid.end(), parameter.get(setup)), 1);
      for (const double value : parameter.grid) {
        MethodSetup other = setup;
        parameter.set(value, other);
        EXPECT_EQ(parameter.get(other), value);
        EXPECT_EQ(describe(other) == describe(setup), value == parameter.get(setup));
        EXPECT_EQ(parse_refine(format(other.method.refine)), other.method.refine);
      }
    }
  }
  const MethodSetup found =
      with_parameters(setup_with("best"), {{{"alpha", 0.5}, {"steps", 40.0}, {"windows", 2.0}}});
  EXPECT_EQ(describe(found), "aligned-admm(40,30,0.5,0.5), wanda, 2 windows");
}

TEST(MethodParametersTest, ThatAreNone) {
  expect_error(ErrorKind::kUsage, [] { chosen_parameters(setup_with("best"), {"alhpa"}); },
               {"--parameters: found 'alhpa'", "auto or some of alpha, beta, steps, windows"});
  expect_error(ErrorKind::kUsage,
               [] {
                 chosen_parameters(setup_with("best"), {"alpha", "damping"});
               },
               {"--parameters: found damping", "the method best has not"});
  expect_error(ErrorKind::kUsage, [] { chosen_parameters(setup_with("wanda"), {"ewma-beta"}); },
               {"--parameters: found ewma-beta", "--select ewma brings it"});
  expect_error(ErrorKind::kUsage, [] { chosen_parameters(setup_with("random"), {"auto"}); },
               {"--parameters: the method random has none"});
  EXPECT_EQ(chosen_parameters(setup_with("best"), {"auto"}).size(), 4u);
  const auto some = chosen_parameters(setup_with("best"), {"steps", "alpha"});
  ASSERT_EQ(some.size(), 2u);
  EXPECT_EQ(some[0].name, "alpha");  // in the order of the search
}

// Divergences of eight windows that differ much from one another, less (by `gain`) the nearer alpha is to 0.65 and beta to
// 0.5, with some noise that the setup alone decides.
class Windows {
 public:
  explicit Windows(double noise) : noise_(noise) {}
  MeasureSetups measure() {
    return [this](std::span<const MethodSetup> setups) -> std::optional<std::vector<SetupMeasurement>> {
      if (left == 0) return std::nullopt;
      --left;
      std::vector<SetupMeasurement> all;
      for (const MethodSetup& setup : setups) {
        ++trials;
        const auto& options = std::get<AlignedAdmmOptions>(setup.method.refine.parts().front());
        const double off = std::pow(options.alpha - 0.65, 2) + std::pow(options.beta - 0.5, 2);
        SetupMeasurement m;
        for (int w = 0; w < 8; ++w) {
          const double by_chance = std::sin(37.0 * w + 1000.0 * options.alpha + 77.0 * options.beta +
                                            13.0 * static_cast<double>(options.steps));
          m.search_kl.push_back(0.2 * (w + 1) + off + noise_ * by_chance);
        }
        m.check_kl = 1.0 + off;
        all.push_back(std::move(m));
      }
      return all;
    };
  }
  int left = 1000, trials = 0;

 private:
  double noise_;
};

TEST(ParameterSearchTest, FindsWhatIsBetterByMoreThanNoise) {
  const MethodSetup own = setup_with("best");
  const auto parameters = chosen_parameters(own, {"alpha", "beta", "steps"});
  Windows windows(1e-3);
  const ParameterSearch found = search_parameters(own, parameters, windows.measure());
  EXPECT_TRUE(found.whole);
  EXPECT_THAT(found.found, ElementsAre(std::pair<std::string, double>{"alpha", 0.65}));
  EXPECT_EQ(found.trials.size(), static_cast<std::size_t>(windows.trials));
  EXPECT_EQ(found.trials[0].parameter, "");
  // On either side of the best one once, outwards as long as it falls; then the others, where nothing is taken.
  EXPECT_LE(windows.trials, 12);
  int taken = 0;
  for (const ParameterTrial& trial : found.trials) {
    if (!trial.taken) continue;
    ++taken;
    EXPECT_LT(trial.difference, -trial.noise);
  }
  EXPECT_EQ(taken, 1);
}

TEST(ParameterSearchTest, KeepsTheMethodWhereNoiseIsLarger) {
  const MethodSetup own = setup_with("best");
  const auto parameters = chosen_parameters(own, {"alpha", "beta", "steps"});
  Windows windows(1.0);
  const ParameterSearch found = search_parameters(own, parameters, windows.measure());
  EXPECT_THAT(found.found, IsEmpty());
  EXPECT_GT(found.trials.size(), 6u);
}

TEST(ParameterSearchTest, EndsWhereTheTimeIsOver) {
  const MethodSetup own = setup_with("best");
  const auto parameters = chosen_parameters(own, {"auto"});
  Windows windows(1e-3);
  windows.left = 3;  // the method as it is, and alpha
  const ParameterSearch found = search_parameters(own, parameters, windows.measure());
  EXPECT_FALSE(found.whole);
  EXPECT_THAT(found.found, ElementsAre(std::pair<std::string, double>{"alpha", 0.65}));
  windows.left = 0;
  const ParameterSearch none = search_parameters(own, parameters, windows.measure());
  EXPECT_FALSE(none.whole);
  EXPECT_THAT(none.trials, IsEmpty());
}

TEST(ParameterSearchTest, NoiseIsOfPairs) {
  const std::vector<double> a = {1.0, 5.0, 9.0, 2.0}, b = {0.9, 4.9, 8.9, 1.9}, c = {0.0, 6.0, 9.0, 2.0};
  EXPECT_NEAR(paired_noise(a, b), 0.0, 1e-12);  // every window fell by the same
  // Differences -1, 1, 0, 0: a standard error of √(2/3)/2, Student's t of three degrees of freedom 3.182.
  EXPECT_NEAR(paired_noise(a, c), 1.5 * 3.182 * std::sqrt(2.0 / 3.0) / 2.0, 1e-9);
}

}  // namespace
}  // namespace swiftprune
