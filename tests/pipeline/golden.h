// Hashes of what every recipe makes of every tiny model: a change of structure must not change a byte. Each
// line of a golden file (tests/data/golden) is "family recipe hash". SWIFTPRUNE_WRITE_GOLDEN=FOLDER writes
// a file for each family anew (cat FOLDER/NAME-*.txt), for a change that is meant to alter results; say in its commit why.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/collected_output.h"
#include "support/random_windows.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/sha256.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/pipeline/choices/sensitivities.h"
#include "swiftprune/pipeline/drivers/prune_shop.h"
#include "swiftprune/pipeline/drivers/shrink_shop.h"

namespace swiftprune::test {

struct Shops {
  PruneShopMaker prune;
  ShrinkShopMaker shrink;
  ProbeShopMaker probe;
};

struct GoldenRecipe {
  std::string score, refine, pattern;
  Propagation propagation = Propagation::kPruned;
  bool allocates = false;
};

inline std::vector<GoldenRecipe> golden_recipes() {
  using enum Propagation;
  return {{"magnitude", "none", "row", kDense},
          {"magnitude", "none", "2:4", kDense},
          {"magnitude", "none", "layer", kDense},
          {"magnitude", "none", "block:4x4", kDense},
          {"random(7)", "none", "row", kDense},
          {"random(7)", "none", "block:4x4", kDense},
          {"wanda", "none", "row", kPruned},
          {"contribution", "none", "row", kDense},
          {"ria(0.7)", "none", "2:4", kDense},
          {"ria(0.7)", "none", "layer", kDense},
          {"stade", "none", "row", kDense},
          {"paper", "none", "1:4", kPruned},
          {"obs", "none", "row", kPruned},
          {"wanda", "pcg(10)", "row", kPruned},
          {"wanda", "swaps(20)", "row", kPruned},
          {"wanda", "swaps(20)", "2:4", kPruned},
          {"wanda", "sparsegpt", "row", kPruned},
          {"wanda", "sparsegpt", "2:4", kPruned},
          {"wanda", "admm(20,15)", "row", kPruned},
          {"wanda", "admm(10,8)+pcg(5)", "row", kPruned},
          {"wanda", "aligned-admm(20,15)", "row", kPruned},
          {"wanda", "aligned-admm(20,15)", "2:4", kPruned},
          {"wanda", "aligned-admm(20,15)", "row", kDense},
          {"wanda", "aligned-admm(10,8)", "layer", kPruned},
          {"wanda", "none", "row", kPruned, true},
          {"wanda", "aligned-admm(20,15)", "row", kPruned, true}};
}

inline std::string hash_of(const std::map<std::string, Collected::Bytes>& tensors) {
  Sha256 hash;
  for (const auto& [name, bytes] : tensors) {
    hash.update(name);
    hash.update(std::span<const std::byte>(bytes));
  }
  return hash.hex_digest().substr(0, 16);
}

// The hash, or the message of a recipe that the model refuses.
inline std::string golden_hash(const Model& model, const GoldenRecipe& recipe, const Shops& shops,
                               const TokenWindows& windows, Communicator& ranks = alone()) {
  PlanDefaults defaults;
  defaults.pattern = parse_pattern(recipe.pattern);
  defaults.score = parse_score(recipe.score);
  defaults.refine = parse_refine(recipe.refine);
  PruneOptions options;
  options.propagation = recipe.propagation;
  options.ranks = &ranks;
  try {
    Plan plan = uniform_plan(model, defaults, {});
    if (recipe.allocates) {
      Sensitivities measured =
          measure_sensitivities(shops.probe, model, plan, windows, ComputeType::kF32, {}, ranks);
      allocate_by_sensitivity(measured.values, plan);
      options.readers = std::move(measured.readers);
    }
    Collected output(model.checkpoint());
    prune(shops.prune, model, plan, windows, options, output);
    return hash_of(output.tensors);
  } catch (const Error&) {
    return "refused";
  }
}

// Shrunk tensors in the checkpoint's dtype, by their dense names.
class CollectedShrink final : public ShrinkOutput {
 public:
  void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> part) override {
    const std::lock_guard lock(mutex_);
    parts_[name][first].assign(part.begin(), part.end());
  }
  void write_bias(const std::string& name, std::span<const float> values) override {
    const auto bytes = std::as_bytes(values);
    parts_[name][0].assign(bytes.begin(), bytes.end());
  }
  std::map<std::string, Collected::Bytes> tensors() const {
    std::map<std::string, Collected::Bytes> result;
    for (const auto& [name, parts] : parts_) {
      for (const auto& [first, bytes] : parts)
        result[name].insert(result[name].end(), bytes.begin(), bytes.end());
    }
    return result;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::map<std::int64_t, Collected::Bytes>> parts_;
};

inline std::string golden_hash(const Model& model, Compensation compensation, const std::string& score,
                               const Shops& shops, const TokenWindows& windows,
                               Communicator& ranks = alone()) {
  ShrinkShape shape = shape_of(model.config());
  shape.channels = model.config().intermediate_size * 3 / 4;
  ShrinkOptions options;
  options.compensation = compensation;
  options.score = score;
  options.ranks = &ranks;
  try {
    CollectedShrink output;
    shrink(shops.shrink, model, shape, {}, windows, options, output);
    return hash_of(output.tensors());
  } catch (const Error&) {
    return "refused";
  }
}

// What is known of a family: "recipe" -> hash.
inline std::map<std::string, std::string> golden_lines(const std::string& name, const std::string& family) {
  std::map<std::string, std::string> lines;
  std::ifstream file(std::filesystem::path(SWIFTPRUNE_TEST_DATA "/golden") / (name + ".txt"));
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(' '), last = line.rfind(' ');
    if (line.substr(0, first) == family)
      lines[line.substr(first + 1, last - first - 1)] = line.substr(last + 1);
  }
  return lines;
}

// Every recipe of a family beside the file tests/data/golden/<name>.txt.
inline void expect_golden(const std::string& name, const Shops& shops, const std::string& family) {
  std::map<std::string, std::string> found;
  const auto model = Model::open(kModels / family);
  for (const GoldenRecipe& recipe : golden_recipes()) {
    const std::string what = fmt::format("{}:{}:{}:{}{}", recipe.score, recipe.refine, recipe.pattern,
                                         name_of(recipe.propagation), recipe.allocates ? ":allocated" : "");
    found[what] = golden_hash(*model, recipe, shops, random_windows(*model, 5));
  }
  for (const Compensation compensation :
       {Compensation::kNone, Compensation::kBias, Compensation::kRefit, Compensation::kAligned}) {
    for (const char* score : {"contribution", "flap", "obs"}) {
      found[fmt::format("shrink:{}:{}", name_of(compensation), score)] =
          golden_hash(*model, compensation, score, shops, random_windows(*model, 5));
    }
  }
  if (const char* folder = std::getenv("SWIFTPRUNE_WRITE_GOLDEN")) {
    std::ofstream file(std::filesystem::path(folder) / fmt::format("{}-{}.txt", name, family));
    for (const auto& [what, hash] : found) file << family << ' ' << what << ' ' << hash << '\n';
    GTEST_SKIP() << "written, not compared";
  }
  EXPECT_EQ(found, golden_lines(name, family));
}

}  // namespace swiftprune::test
