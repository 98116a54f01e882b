// Linears on grids through the pipeline: what is stored is what was solved, whichever way it is stored, and a
// killed run goes on to the same bytes.
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/collected_output.h"
#include "support/random_windows.h"
#include "support/temp_dir.h"
#include "swiftprune/masking/apply_mask.h"
#include "swiftprune/pipeline/grid_output.h"
#include "swiftprune/pipeline/method.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace swiftprune {
namespace {

using test::kModels;

class Stopped {};

// Remembers what the solver gave, and dies before block `last` is whole.
class Recorded final : public PruneOutput {
 public:
  Recorded(GridOutput& output, std::int64_t last) : output_(output), last_(last) {}
  bool keeps_grids() const override { return true; }
  void write_quantized(const std::string& name, const QuantizedWeight& weight) override {
    if (finished_ == last_) throw Stopped();
    solved.emplace(name, weight);
    output_.write_quantized(name, weight);
  }
  void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> bytes) override {
    output_.write_part(name, first, bytes);
  }
  void finish(const FinishedBlock& block) override {
    ++finished_;
    output_.finish(block);
  }
  void read(const std::string& name, std::span<float> values) override { output_.read(name, values); }

  std::map<std::string, QuantizedWeight> solved;

 private:
  GridOutput& output_;
  std::int64_t last_;
  std::int64_t finished_ = 0;
};

struct QuantizedRun {
  const Model& model;
  const Backend& backend;
  Plan plan;
  PruneOptions options;
  TokenWindows windows;

  std::map<std::string, QuantizedWeight> to(const std::filesystem::path& folder, Leftover leftover,
                                            std::int64_t last) {
    CheckpointWriter stage(folder, stage_plan(model.checkpoint(), plan), leftover);
    stage.keep_when_unfinished();
    const auto sync = [&] { stage.sync(); };
    options.finished.clear();
    std::optional<Journal> journal;
    if (leftover == Leftover::kContinue) {
      EXPECT_TRUE(stage.continues());
      options.finished = read_journal(stage.temporary_folder()).value().blocks;
      EXPECT_EQ(options.finished.size(), 1u);
      journal.emplace(stage.temporary_folder(), sync);
    } else {
      journal.emplace(stage.temporary_folder(), nlohmann::ordered_json{{"run", 1}}, sync);
    }
    GridOutput output(model.checkpoint(), plan, stage, *journal, options.finished);
    Recorded recorded(output, last);
    try {
      prune(model, backend, plan, windows, options, recorded);
    } catch (const Stopped&) {
      journal->flush();
      throw;
    }
    PackReport report;
    const auto writer = output.write_packed(folder, {}, report);
    writer->copy_other_files(model.checkpoint());
    writer->finish();
    EXPECT_EQ(report.linears.size(), plan.entries.size() - 1);
    EXPECT_LT(report.packed_bytes, report.dense_bytes);
    stage.drop_when_unfinished();
    return std::move(recorded.solved);
  }
};

QuantizedRun make_run(const Model& model, const Backend& backend, const char* grid, const char* pattern) {
  const Method& method = method_by_name("best");
  PlanDefaults defaults{parse_pattern(pattern), 0.5, method.score, method.refine, parse_grid(grid, "test")};
  QuantizedRun run{model, backend, uniform_plan(model, defaults, {}), {}, test::random_windows(model, 3, 24)};
  run.plan.entries[1].grid.reset();  // one of them is pruned as without --quantize
  return run;
}

TEST(Quantize, WhatIsStoredIsWhatWasSolved) {
  const auto model = Model::open(kModels / "llama2");
  const auto backend = make_cpu_backend();
  for (const char* pattern : {"row", "2:4"}) {
    for (const char* grid : {"int4(row)", "int3(row,asymmetric)", "int8(row)"}) {
      QuantizedRun run = make_run(*model, *backend, grid, pattern);
      const test::TempDir folder;
      const auto solved = run.to(folder.path() / "out", Leftover::kDiscard, -1);
      const Checkpoint packed = Checkpoint::open(folder.path() / "out");
      ASSERT_EQ(solved.size(), run.plan.entries.size() - 1);
      test::Collected values(model->checkpoint());
      prune(*model, *backend, run.plan, run.windows, run.options, values);
      for (const PlanEntry& entry : run.plan.entries) {
        if (!entry.grid) {
          EXPECT_NE(packed.find(entry.tensor), nullptr);
          continue;
        }
        const auto found = find_packed(packed, entry.tensor, entry.rows, entry.cols);
        ASSERT_TRUE(found) << entry.tensor;
        const QuantizedWeight stored = unpack_quantized(*found);
        const QuantizedWeight& weight = solved.at(entry.tensor);
        EXPECT_EQ(stored.codes, weight.codes) << entry.tensor;
        EXPECT_EQ(stored.scales, weight.scales);
        EXPECT_EQ(stored.zeros, weight.zeros);
        const Matrix matrix = dequantize(stored);
        EXPECT_TRUE(check_pattern(weight_view(matrix.view()), entry.pattern).holds) << entry.tensor;
        // The first linears see the same inputs however their own values are stored.
        if (entry.layer > 0 || entry.input != LinearInput::kAttention) continue;
        std::vector<float> rounded(matrix.values().begin(), matrix.values().end());
        std::vector<std::byte> bytes(values.tensors.at(entry.tensor).size());
        convert_from_f32(rounded, model->checkpoint().at(entry.tensor).dtype, bytes);
        EXPECT_EQ(bytes, values.tensors.at(entry.tensor));
      }
    }
  }
}

TEST(Quantize, AKilledRunGoesOnToTheSameCodes) {
  const auto model = Model::open(kModels / "llama2");
  ASSERT_GE(model->config().num_layers(), 2);
  const auto backend = make_cpu_backend();
  const test::TempDir folder;
  QuantizedRun run = make_run(*model, *backend, "int4(row,asymmetric)", "row");
  const auto whole = run.to(folder.path() / "whole", Leftover::kDiscard, -1);
  EXPECT_THROW(run.to(folder.path() / "killed", Leftover::kDiscard, 1), Stopped);
  run.to(folder.path() / "killed", Leftover::kContinue, -1);
  const Checkpoint killed = Checkpoint::open(folder.path() / "killed");
  for (const auto& [name, weight] : whole) {
    const auto found = find_packed(killed, name, weight.rows, weight.cols);
    ASSERT_TRUE(found) << name;
    EXPECT_EQ(unpack_quantized(*found).codes, weight.codes) << name;
    EXPECT_EQ(unpack_quantized(*found).scales, weight.scales) << name;
  }
}

TEST(Quantize, PlansKeepTheirGrids) {
  const auto model = Model::open(kModels / "llama2");
  PlanDefaults defaults;
  defaults.refine = parse_refine("aligned-admm");
  Plan plan = uniform_plan(*model, defaults, {});
  EXPECT_FALSE(plan.quantizes());
  apply_override("*.down_proj.weight", "quantize=int4(row,asymmetric)", plan);
  EXPECT_TRUE(plan.quantizes());
  Plan again = uniform_plan(*model, defaults, {});
  apply_plan(to_json(plan), "plan", again);
  for (std::size_t i = 0; i < plan.entries.size(); ++i)
    EXPECT_EQ(plan.entries[i].grid, again.entries[i].grid);
  apply_override("*", "quantize=none", again);
  EXPECT_FALSE(again.quantizes());
}

}  // namespace
}  // namespace swiftprune
