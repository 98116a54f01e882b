// Ranks that prune together write what one process writes, byte for byte.
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "pipeline/rank_runs.h"
#include "support/expect_error.h"
#include "support/problem.h"
#include "swiftprune/device/device.h"
#include "swiftprune/pipeline/streams/rank_windows.h"

namespace swiftprune {
namespace {

using test::golden_hash;
using test::GoldenRecipe;
using test::kModels;
using test::ThreadRanks;

// Two passes of windows, the last one short.
TokenWindows windows_for(const Model& model) { return test::random_windows(model, 100, 24); }

void expect_same_with(int size, const Model& model, const GoldenRecipe& recipe, const Backend& backend) {
  const test::Shops shops{cpu_prune_shop(backend), {}, cpu_probe_shop(backend)};
  const TokenWindows windows = windows_for(model);
  const std::string expected = golden_hash(model, recipe, shops, windows);
  EXPECT_NE(expected, "refused");
  ThreadRanks(size).run([&](Communicator& ranks) {
    EXPECT_EQ(golden_hash(model, recipe, shops, windows, ranks), expected)
        << ranks.name() << ", " << recipe.score << ", " << recipe.refine << ", " << recipe.pattern;
  });
}

TEST(Ranks, EveryRecipeGivesTheBytesOfOneProcess) {
  const auto model = Model::open(kModels / "llama2");
  const auto backend = make_cpu_backend();
  for (const GoldenRecipe& recipe : test::golden_recipes()) expect_same_with(2, *model, recipe, *backend);
}

TEST(Ranks, EveryFamilyGivesTheBytesOfOneProcess) {
  const auto backend = make_cpu_backend();
  for (const std::string& family : test::model_names()) {
    SCOPED_TRACE(family);
    const auto model = Model::open(kModels / family);
    expect_same_with(2, *model, {"wanda", "aligned-admm(4,3)", "row", Propagation::kPruned}, *backend);
  }
}

TEST(Ranks, MoreRanksThanPassesOfWindows) {
  const auto model = Model::open(kModels / "llama2");
  const auto backend = make_cpu_backend();
  for (const int size : {3, 4}) {
    expect_same_with(size, *model, {"wanda", "aligned-admm(4,3)", "row", Propagation::kPruned, true},
                     *backend);
    expect_same_with(size, *model, {"stade", "none", "row", Propagation::kDense}, *backend);
  }
}

TEST(Ranks, WindowsAreSharedOutByWholePasses) {
  const auto model = Model::open(kModels / "llama2");
  const TokenWindows windows = windows_for(*model);
  for (const int size : {2, 3, 4}) {
    std::vector<std::int32_t> ids;
    ThreadRanks(size).run([&](Communicator& ranks) {
      if (!ranks.is_first()) return;
      const TokenWindows mine = windows_of_rank(windows, rank_windows(model->config(), windows, ranks));
      EXPECT_EQ(mine.num_windows() % (kTokensPerPass / windows.seqlen), 0);
      EXPECT_GT(mine.num_windows(), 0);
    });
  }
}

TEST(Ranks, MethodsWithoutTextNeedNone) {
  const auto model = Model::open(kModels / "llama2");
  const auto backend = make_cpu_backend();
  PlanDefaults defaults;
  defaults.score = parse_score("magnitude");
  const Plan plan = uniform_plan(*model, defaults, {});
  test::Collected whole(model->checkpoint());
  prune(*model, *backend, plan, {}, {}, whole);
  ThreadRanks(2).run([&](Communicator& ranks) {
    PruneOptions options;
    options.ranks = &ranks;
    test::Collected output(model->checkpoint());
    prune(*model, *backend, plan, {}, options, output);
    EXPECT_EQ(test::hash_of(output.tensors), test::hash_of(whole.tensors));
  });
}

TEST(Ranks, FinishedBlocksAreTakenOverFromTheFirst) {
  const auto model = Model::open(kModels / "llama2");
  const auto backend = make_cpu_backend();
  const TokenWindows windows = windows_for(*model);
  PlanDefaults defaults;
  defaults.refine = parse_refine("aligned-admm(4,3)");
  const Plan plan = uniform_plan(*model, defaults, {});
  test::Collected whole(model->checkpoint());
  prune(*model, *backend, plan, windows, {}, whole);
  PruneOptions options;
  options.finished = {whole.finished.front()};
  ThreadRanks(2).run([&](Communicator& ranks) {
    PruneOptions of_rank = options;
    of_rank.ranks = &ranks;
    test::Collected output(model->checkpoint());
    if (ranks.is_first()) {
      for (const TensorResult& tensor : whole.finished.front().tensors)
        output.tensors[tensor.name] = whole.tensors[tensor.name];
    }
    prune(*model, *backend, plan, windows, of_rank, output);
    for (const auto& [name, bytes] : output.tensors) EXPECT_TRUE(bytes == whole.tensors[name]) << name;
    EXPECT_EQ(output.tensors.size() < whole.tensors.size(), !ranks.is_first());
  });
}

// What SharedRefinement relies on, at sizes of several tiles.
TEST(Ranks, RowsRefinedAloneAreTheSameBits) {
  for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
    for (const auto& [outputs, inputs] : {std::pair<std::int64_t, std::int64_t>{800, 300}, {768, 1100}}) {
      const testing::Problem problem =
          testing::make_problem({.outputs = outputs, .inputs = inputs, .tokens = 400, .correlated = false});
      const Matrix cross = testing::random_matrix(inputs, inputs, 5);
      const Matrix residual = testing::random_matrix(outputs, inputs, 6);
      LayerStats stats = stats_of(problem);
      stats.compute = compute;
      stats.cross = &cross;
      stats.residual = &residual;
      const auto backend = make_cpu_backend();
      const std::int64_t step = backend->product_rows(outputs, inputs, compute);
      if (compute == ComputeType::kF32) {
        EXPECT_LT(step, outputs);
      }
      for (const char* text : {"admm(3,2)", "aligned-admm(3,2)", "pcg(3)", "swaps(3)", "admm(3,2)+pcg(2)"}) {
        for (const char* pattern : {"row", "2:4"}) {
          const RefineSpec spec = parse_refine(text);
          const auto refiner = make_refiner(spec);
          RefineTask task;
          task.weight = std::as_const(problem.weight).view();
          task.target.pattern = parse_pattern(pattern);
          task.target.sparsity = 0.5;
          ASSERT_TRUE(spec.works_by_rows(task.target.pattern));
          const Mask mask =
              make_selector(kDefaultSelector)->select(plain_scores(task.weight), task.target).mask;
          task.mask = &mask;
          const auto prepared = refiner->prepare(stats, *backend, text);
          const Refinement whole = refiner->refine(task, *prepared, *backend);
          for (std::int64_t first = 0; first < outputs; first += step) {
            const std::int64_t count = std::min(step, outputs - first);
            RefineTask part = task;
            part.weight = task.weight.row_block(first, count);
            part.first_row = first;
            Mask rows(count, inputs);
            for (std::int64_t r = 0; r < count; ++r)
              std::copy_n(mask.row(first + r), mask.words_per_row(), rows.row(r));
            part.mask = &rows;
            const Refinement alone = refiner->refine(part, *prepared, *backend);
            EXPECT_EQ(
                std::memcmp(alone.weight.data(), whole.weight.row(first), alone.weight.values().size_bytes()),
                0)
                << text << ", " << pattern << ", rows from " << first;
          }
        }
      }
    }
  }
}

TEST(Ranks, WhatTheyCannotDoIsRefusedByName) {
  const auto model = Model::open(kModels / "llama2");
  ThreadRanks(2).run([&](Communicator& ranks) {
    PruneOptions options;
    options.ranks = &ranks;
    PlanDefaults defaults;
    defaults.refine = parse_refine("admm(4,3)");
    defaults.low_rank = 2;
    const auto device = make_cpu_device();
    test::expect_error(ErrorKind::kUsage,
                       [&] { device->check_plan(*model, uniform_plan(*model, defaults, {}), options); },
                       {"--low-rank", "2 ranks"});
  });
}

const test::AsRank kThread = [](Communicator& thread, const auto& work) { work(thread); };

TEST(RanksShrink, EveryCompensationGivesTheBytesOfOneProcess) {
  const auto backend = make_cpu_backend();
  const test::Shops shops{{}, cpu_shrink_shop(*backend), {}};
  for (const char* family : {"llama2", "gemma2", "phi3", "opt", "pythia"}) {
    const auto model = Model::open(kModels / family);
    const TokenWindows windows = windows_for(*model);
    for (const Compensation compensation :
         {Compensation::kNone, Compensation::kRefit, Compensation::kAligned}) {
      for (const char* score : {"contribution", "obs"}) {
        if (std::string_view(score) == "obs" && compensation == Compensation::kAligned) continue;
        test::expect_same_with(
            2,
            [&](Communicator& ranks) {
              return golden_hash(*model, compensation, score, shops, windows, ranks);
            },
            kThread, fmt::format("{}, {}, {}", family, name_of(compensation), score));
      }
    }
  }
}

TEST(RanksShrink, MoreRanksThanPassesOfWindows) {
  const auto backend = make_cpu_backend();
  const test::Shops shops{{}, cpu_shrink_shop(*backend), {}};
  const auto model = Model::open(kModels / "opt");
  const TokenWindows windows = windows_for(*model);
  for (const Compensation compensation : {Compensation::kBias, Compensation::kAligned}) {
    test::expect_same_with(
        4,
        [&](Communicator& ranks) { return golden_hash(*model, compensation, "flap", shops, windows, ranks); },
        kThread, std::string(name_of(compensation)));
  }
}

class RanksExperts : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Model> model_ = Model::open(test::kExpertModels / GetParam());
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  ExpertShopMaker shop_ = cpu_expert_shop(*backend_);
  TokenWindows windows_ = windows_for(*model_);
};

INSTANTIATE_TEST_SUITE_P(Families, RanksExperts, ::testing::ValuesIn(test::expert_model_names()),
                         [](const auto& test_info) { return test_info.param; });

TEST_P(RanksExperts, PrunedAreTheBytesOfOneProcess) {
  if (GetParam() == "gpt_oss_mxfp4") GTEST_SKIP() << "is not written";
  const PruneShopMaker shop = cpu_prune_shop(*backend_);
  for (const GoldenRecipe& recipe : test::expert_recipes()) {
    test::expect_same_with(2, test::pruning(shop, *model_, windows_, recipe), kThread,
                           recipe.score + ", " + recipe.refine);
  }
}

TEST_P(RanksExperts, RemovedAreThoseOfOneProcess) {
  for (const int size : {2, 4}) {
    for (const char* scorer : {"ours", "reap"}) {
      test::expect_same_with(size,
                             test::removal(shop_, *model_, windows_, test::removal_options(*model_, scorer)),
                             kThread, scorer);
    }
  }
}

TEST_P(RanksExperts, NarrowedAreTheBytesOfOneProcess) {
  try {
    check_narrowable(*model_);
  } catch (const Error&) {
    GTEST_SKIP() << "is refused by name";
  }
  NarrowExpertsOptions options;
  options.width = experts_of(model_->config())->width / 2;
  test::expect_same_with(2, test::narrowing(shop_, *model_, windows_, options), kThread, "narrowed");
}

// Where each of four ranks has some of the text.
TEST(RanksExpertsOfLongText, AreThoseOfOneProcess) {
  const auto model = Model::open(test::kExpertModels / "qwen3_moe");
  const auto backend = make_cpu_backend();
  const PruneShopMaker pruner = cpu_prune_shop(*backend);
  const ExpertShopMaker shop = cpu_expert_shop(*backend);
  const TokenWindows windows = test::random_windows(*model, 300, 24);
  for (const int size : {3, 4}) {
    test::expect_same_with(
        size,
        test::pruning(pruner, *model, windows, {"wanda", "aligned-admm(4,3)", "row", Propagation::kPruned}),
        kThread, "pruned");
    test::expect_same_with(size, test::removal(shop, *model, windows, test::removal_options(*model, "ours")),
                           kThread, "removed");
  }
}

// Layers that an earlier run finished are the first rank's to read.
TEST_P(RanksExperts, FinishedLayersAreTakenOverFromTheFirst) {
  const RemoveExpertsOptions options = test::removal_options(*model_, "ours");
  test::HashedExperts whole;
  remove_experts(shop_, *model_, windows_, options, whole);
  if (whole.layers.size() < 2) GTEST_SKIP() << "one layer with experts";
  ThreadRanks(2).run([&](Communicator& ranks) {
    class OfFirst final : public ReducedExpertsOutput {
     public:
      OfFirst(test::HashedExperts& earlier, bool is_first) : earlier_(earlier), is_first_(is_first) {}
      void write_down(std::int64_t, std::int64_t, ConstMatrixView) override {}
      void write_bias(std::int64_t, std::int64_t, std::span<const float>) override {}
      void keep(const ReducedLayer&) override {}
      void finish_layer(const ReducedLayer& layer) override { layers.push_back(layer); }
      Matrix read_down(std::int64_t layer, std::int64_t index) override {
        EXPECT_TRUE(is_first_);
        return earlier_.read_down(layer, index);
      }
      std::vector<float> read_bias(std::int64_t layer, std::int64_t index) override {
        EXPECT_TRUE(is_first_);
        return earlier_.read_bias(layer, index);
      }
      std::vector<ReducedLayer> layers;

     private:
      test::HashedExperts& earlier_;
      bool is_first_;
    } output(whole, ranks.is_first());
    RemoveExpertsOptions again = options;
    again.ranks = &ranks;
    again.finished = {whole.layers.front()};
    remove_experts(shop_, *model_, windows_, again, output);
    EXPECT_EQ(layers_text(output.layers), layers_text(std::span(whole.layers).subspan(1)));
  });
}

}  // namespace
}  // namespace swiftprune
