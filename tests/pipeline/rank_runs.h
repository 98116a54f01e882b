// Runs of pipeline/drivers/ that several ranks do together, over any device's shops: what each rank's output is given must
// be what one process gives its own, bit by bit.
#pragma once

#include <functional>
#include <string>

#include "pipeline/golden.h"
#include "support/thread_ranks.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/drivers/expert_shop.h"
#include "swiftprune/pipeline/drivers/narrow_experts.h"
#include "swiftprune/pipeline/drivers/remove_experts.h"
#include "swiftprune/pipeline/expert_checkpoint.h"

namespace swiftprune::test {

// A hash of all that a run gives its output; "refused" where the model cannot be treated so.
using RankRun = std::function<std::string(Communicator& ranks)>;
// What a thread of ThreadRanks is to the run: on a GPU one with a link beside it.
using AsRank = std::function<void(Communicator& thread, const std::function<void(Communicator&)>& work)>;

inline void expect_same_with(int size, const RankRun& run, const AsRank& as_rank, const std::string& what) {
  const std::string expected = run(alone());
  EXPECT_NE(expected, "refused") << what;
  ThreadRanks(size).run([&](Communicator& thread) {
    as_rank(thread,
            [&](Communicator& ranks) { EXPECT_EQ(run(ranks), expected) << ranks.name() << ", " << what; });
  });
}

// What is told of layers, and the weights.
class HashedExperts final : public ReducedExpertsOutput, public NarrowedExpertsOutput {
 public:
  void write_down(std::int64_t layer, std::int64_t index, ConstMatrixView weight) override {
    note(layer, index, {}, weight);
    downs_[{layer, index}] = copy_of(weight);
  }
  void write_bias(std::int64_t layer, std::int64_t index, std::span<const float> bias) override {
    note(layer, index, {}, {bias.data(), 1, std::ssize(bias), std::ssize(bias)});
    biases_[{layer, index}].assign(bias.begin(), bias.end());
  }
  void keep(const ReducedLayer& layer) override { note(layer.evidence.layer, -1, layer.kept, {}); }
  void finish_layer(const ReducedLayer& layer) override {
    hash_.update(layers_text(std::span(&layer, 1)));
    layers.push_back(layer);
  }
  Matrix read_down(std::int64_t layer, std::int64_t index) override {
    return downs_.at({layer, index}).clone();
  }
  std::vector<float> read_bias(std::int64_t layer, std::int64_t index) override {
    return biases_.at({layer, index});
  }
  void write(std::int64_t layer, std::int64_t expert, std::span<const std::int64_t> kept,
             ConstMatrixView down) override {
    note(layer, expert, kept, down);
  }
  std::string digest() { return hash_.hex_digest(); }
  std::vector<ReducedLayer> layers;

 private:
  void note(std::int64_t layer, std::int64_t index, std::span<const std::int64_t> kept,
            ConstMatrixView weight) {
    hash_.update(fmt::format("{} {} {};", layer, index, fmt::join(kept, ",")));
    for (std::int64_t r = 0; r < weight.rows; ++r) hash_.update(std::as_bytes(weight.row_span(r)));
  }
  Sha256 hash_;
  std::map<std::pair<std::int64_t, std::int64_t>, Matrix> downs_;
  std::map<std::pair<std::int64_t, std::int64_t>, std::vector<float>> biases_;
};

// Pruned tensors by their names, experts' one by one, whatever the file's form.
class PrunedParts final : public PruneOutput {
 public:
  void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> part) override {
    const std::lock_guard lock(mutex_);
    parts_[name][first].assign(part.begin(), part.end());
  }
  std::string digest() const {
    std::map<std::string, Collected::Bytes> tensors;
    for (const auto& [name, parts] : parts_) {
      for (const auto& [first, bytes] : parts)
        tensors[name].insert(tensors[name].end(), bytes.begin(), bytes.end());
    }
    return hash_of(tensors);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::map<std::int64_t, Collected::Bytes>> parts_;
};

inline RankRun pruning(const PruneShopMaker& shop, const Model& model, const TokenWindows& windows,
                       const GoldenRecipe& recipe) {
  return [&shop, &model, &windows, recipe](Communicator& ranks) {
    PlanDefaults defaults;
    defaults.pattern = parse_pattern(recipe.pattern);
    defaults.score = parse_score(recipe.score);
    defaults.refine = parse_refine(recipe.refine);
    const Plan plan = uniform_plan(model, defaults, {});
    PruneOptions options;
    options.propagation = recipe.propagation;
    options.ranks = &ranks;
    PrunedParts output;
    prune(shop, model, plan, windows, options, output);
    return output.digest();
  };
}

// The digest of what work(shop, model, windows, options, output) writes, which each rank does for itself.
template <class Options, class Work>
RankRun experts_run(const ExpertShopMaker& shop, const Model& model, const TokenWindows& windows,
                    const Options& options, const Work& work) {
  return [&shop, &model, &windows, options, work](Communicator& ranks) {
    Options of_rank = options;
    of_rank.ranks = &ranks;
    HashedExperts output;
    work(shop, model, windows, of_rank, output);
    return output.digest();
  };
}

inline RankRun removal(const ExpertShopMaker& shop, const Model& model, const TokenWindows& windows,
                       const RemoveExpertsOptions& options) {
  return experts_run(shop, model, windows, options,
                     [](auto&&... arguments) { remove_experts(arguments...); });
}

inline RankRun narrowing(const ExpertShopMaker& shop, const Model& model, const TokenWindows& windows,
                         const NarrowExpertsOptions& options) {
  return experts_run(shop, model, windows, options,
                     [](auto&&... arguments) { narrow_experts(arguments...); });
}

// As many experts as the router allows below all of them.
inline RemoveExpertsOptions removal_options(const Model& model, const char* scorer) {
  RemoveExpertsOptions options;
  const ExpertsConfig& experts = *experts_of(model.config());
  std::int64_t keep = experts.count - 1;
  while (router_problem(experts.router, keep)) --keep;
  options.keep = keep;
  options.scorer = &expert_scorer(scorer);
  options.refit = can_refit_experts(model);
  options.bias = experts.bias;
  return options;
}

inline std::vector<GoldenRecipe> expert_recipes() {
  using enum Propagation;
  return {{"wanda", "none", "row", kPruned},      {"contribution", "none", "row", kDense},
          {"paper", "none", "row", kPruned},      {"wanda", "sparsegpt", "row", kPruned},
          {"wanda", "admm(4,3)", "row", kPruned}, {"wanda", "aligned-admm(4,3)", "row", kPruned}};
}

}  // namespace swiftprune::test
