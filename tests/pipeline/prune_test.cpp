// Whole runs on the tiny models: patterns hold, statistics and masks agree with the reference backend,
// threads do not matter.
#include "swiftprune/pipeline/drivers/prune.h"
#include "support/collected_output.h"

#include <cmath>
#include <filesystem>
#include <random>

#include <gtest/gtest.h>

#include "support/random_windows.h"
#include "support/solved_levels.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/masking/apply_mask.h"

namespace swiftprune {
namespace {

using test::random_windows;

const std::filesystem::path kModels = SWIFTPRUNE_TEST_DATA "/model";

using test::Collected;

struct PrunedModel {
  PruneResult result;
  std::unique_ptr<Collected> output;
};

PrunedModel run(const Model& model, const Backend& backend, const Method& method, const std::string& pattern,
                double sparsity) {
  PlanDefaults defaults{parse_pattern(pattern), sparsity, method.score, method.refine};
  PruneOptions options;
  options.select = method.select;
  options.propagation = method.propagation;
  PrunedModel pruned{{}, std::make_unique<Collected>(model.checkpoint())};
  pruned.result = prune(model, backend, uniform_plan(model, defaults, {}), random_windows(model, 3, 24),
                        options, *pruned.output);
  return pruned;
}

TEST(Prune, LevelsAreSolvedBesideThePlan) {
  const auto model = Model::open(kModels / "llama2");
  const auto backend = make_cpu_backend();
  for (const char* refine : {"none", "aligned-admm(6,4)", "admm(6,4)+pcg(2)"}) {
    SCOPED_TRACE(refine);
    test::expect_levels_beside(
        *model, refine, random_windows(*model, 3, 24),
        [&](const Plan& plan, const TokenWindows& windows, const PruneOptions& options, PruneOutput& output) {
          return prune(*model, *backend, plan, windows, options, output);
        });
  }
}

TEST(Prune, EveryMethodHoldsEveryPattern) {
  const auto model = Model::open(kModels / "llama2");
  const auto backend = make_cpu_backend();
  for (const Method& method : methods()) {
    if (method.refine.facts().needs_grid) continue;  // quantize_test.cpp
    for (const std::string pattern : {"row", "2:4", "1:4", "4:8"}) {
      const PrunedModel r = run(*model, *backend, method, pattern, 0.5);
      ASSERT_EQ(r.output->tensors.size(), r.result.tensors.size());
      for (const TensorResult& tensor : r.result.tensors) {
        std::vector<float> values = r.output->values(tensor.name);
        for (const float value : values)
          ASSERT_TRUE(std::isfinite(value)) << method.name << " " << tensor.name;
        const ConstMatrixView view{values.data(), tensor.rows, tensor.cols, tensor.cols};
        const PatternCheck check = check_pattern(weight_view(view), parse_pattern(pattern));
        EXPECT_TRUE(check.holds) << method.name << " " << pattern << " " << tensor.name;
        EXPECT_NEAR(check.sparsity, tensor.asked_sparsity, 1.0 / static_cast<double>(tensor.cols))
            << method.name;
        EXPECT_DOUBLE_EQ(check.sparsity, tensor.sparsity);
      }
    }
  }
}

TEST(Prune, EveryFamilyIsPrunedAndKeepsItsOtherWeights) {
  const auto backend = make_cpu_backend();
  for (const auto& entry : std::filesystem::directory_iterator(kModels)) {
    if (!entry.is_directory()) continue;
    const auto model = Model::open(entry.path());
    const PrunedModel r = run(*model, *backend, method_by_name("wanda"), "row", 0.5);
    EXPECT_NEAR(r.result.sparsity, 0.5, 0.02) << entry.path();
    for (const TensorResult& tensor : r.result.tensors) {
      const Matrix dense = model->checkpoint().load_matrix(tensor.name, tensor.rows, tensor.cols);
      const std::vector<float> pruned = r.output->values(tensor.name);
      for (std::size_t i = 0; i < pruned.size(); ++i) {
        if (pruned[i] != 0.0f) {
          ASSERT_EQ(pruned[i], dense.values()[i]) << tensor.name << " " << i;
        }
      }
    }
  }
}

TEST(Prune, AgreesWithTheReferenceBackend) {
  const auto model = Model::open(kModels / "llama3");
  const PrunedModel found = run(*model, *make_cpu_backend(), method_by_name("wanda"), "row", 0.5);
  const PrunedModel expected = run(*model, *make_reference_backend(), method_by_name("wanda"), "row", 0.5);
  std::size_t different = 0;
  std::size_t total = 0;
  for (const auto& [name, bytes] : expected.output->tensors) {
    const std::vector<float> values = expected.output->values(name), others = found.output->values(name);
    for (std::size_t i = 0; i < values.size(); ++i) different += values[i] != others[i] ? 1 : 0;
    total += values.size();
  }
  EXPECT_LE(static_cast<double>(different),
            0.001 * static_cast<double>(total));  // near-ties that rounding may turn
}

TEST(Prune, TheNumberOfThreadsDoesNotMatter) {
  const auto model = Model::open(kModels / "qwen3");
  const auto backend = make_cpu_backend();
  for (const char* name : {"wanda", "best", "frozen"}) {
    set_num_threads(1);
    const PrunedModel one = run(*model, *backend, method_by_name(name), "row", 0.5);
    set_num_threads(3);
    const PrunedModel three = run(*model, *backend, method_by_name(name), "row", 0.5);
    set_num_threads(0);
    EXPECT_EQ(one.output->tensors, three.output->tensors) << name;
  }
}

TEST(Prune, RefinementLowersTheOutputError) {
  const auto model = Model::open(kModels / "llama2");
  const auto backend = make_cpu_backend();
  PlanDefaults defaults{parse_pattern("row"), 0.5, parse_score("wanda"), parse_refine("none")};
  const auto error = [&](const std::string& refine) {
    defaults.refine = parse_refine(refine);
    Collected output(model->checkpoint());
    const PruneResult result = prune(*model, *backend, uniform_plan(*model, defaults, {}),
                                     random_windows(*model, 8, 64), {}, output);
    return *result.tensors.front().error;
  };
  const double none = error("none");
  EXPECT_LT(error("pcg(20)"), none);
  EXPECT_LT(error("admm(20)"), none);
}

}  // namespace
}  // namespace swiftprune
