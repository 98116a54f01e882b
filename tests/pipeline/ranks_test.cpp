// Ranks that prune together write what one process writes, byte for byte.
#include <gtest/gtest.h>

#include "pipeline/golden.h"
#include "support/expect_error.h"
#include "support/problem.h"
#include "support/thread_ranks.h"
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
      const TokenWindows mine = windows_of_rank(windows, rank_windows(windows, ranks));
      EXPECT_EQ(mine.num_windows() % (kTokensPerPass / windows.seqlen), 0);
      EXPECT_GT(mine.num_windows(), 0);
    });
  }
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
  const auto model = Model::open(test::kExpertModels / test::expert_model_names().front());
  ThreadRanks(2).run([&](Communicator& ranks) {
    PruneOptions options;
    options.ranks = &ranks;
    const auto device = make_cpu_device();
    test::expect_error(ErrorKind::kUsage,
                       [&] { device->check_plan(*model, uniform_plan(*model, {}, {}), options); },
                       {"--ranks", "experts"});
  });
}

}  // namespace
}  // namespace swiftprune
