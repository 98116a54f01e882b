// The rule on the tiny models: text that repeats itself stops early, changing text late, and the numbers are
// those of the definition.
#include "swiftprune/calibration/stopping.h"

#include <random>

#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kLength = 32;

std::unique_ptr<Model> tiny() { return Model::open(test::kModels / "llama2"); }

// Window w holds tokens drawn from [0, vocabulary_of(w)).
TokenWindows draw(const Model& model, std::int64_t windows, bool same) {
  std::mt19937 random(1);
  TokenWindows result{kLength, {}};
  for (std::int64_t w = 0; w < windows; ++w) {
    if (same) random.seed(1);
    for (std::int64_t t = 0; t < kLength; ++t)
      result.ids.push_back(
          static_cast<std::int32_t>(random() % static_cast<unsigned>(model.config().vocab_size)));
  }
  return result;
}

StableWindows until_stable(const Model& model, const Backend& backend, const TokenWindows& windows,
                           double tolerance) {
  const auto energies = make_cpu_input_energies(model, backend, windows, ComputeType::kF32);
  return windows_until_stable(model, *energies, windows, tolerance, {});
}

TEST(Stopping, RepeatedTextIsEnoughAfterTwoWindows) {
  set_num_threads(1);
  const auto model = tiny();
  const auto backend = make_cpu_backend();
  const StableWindows found = until_stable(*model, *backend, draw(*model, 8, true), 1e-3);
  EXPECT_TRUE(found.stable);
  EXPECT_EQ(found.windows, 2);
  set_num_threads(0);
}

TEST(Stopping, ChangesFallWithTheTextAndATighterToleranceReadsMore) {
  set_num_threads(1);
  const auto model = tiny();
  const auto backend = make_cpu_backend();
  const TokenWindows windows = draw(*model, 16, false);
  const StableWindows all = until_stable(*model, *backend, windows, 0.0);
  EXPECT_FALSE(all.stable);
  EXPECT_EQ(all.windows, 16);
  ASSERT_EQ(all.changes.size(), 16u);
  EXPECT_LT(all.changes[15], 0.5 * all.changes[1]);
  std::int64_t before = 0;
  for (const std::size_t window : {std::size_t{3}, std::size_t{9}}) {
    const double tolerance = all.changes[window] * 1.0000001;
    const StableWindows found = until_stable(*model, *backend, windows, tolerance);
    EXPECT_TRUE(found.stable);
    EXPECT_LE(found.windows, static_cast<std::int64_t>(window) + 1);
    EXPECT_LT(found.changes.back(), tolerance);
    EXPECT_GE(found.windows, before);
    before = found.windows;
    for (std::size_t i = 0; i < found.changes.size(); ++i) EXPECT_EQ(found.changes[i], all.changes[i]);
  }
  set_num_threads(0);
}

}  // namespace
}  // namespace swiftprune
