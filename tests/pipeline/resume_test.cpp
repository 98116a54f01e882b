// A run that dies after a block and goes on writes the very bytes of a run that was left alone.
#include <fstream>
#include <random>

#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/prune_to_folder.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/model/adapter.h"
#include "swiftprune/pipeline/adapter_output.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/pipeline/journal.h"

namespace swiftprune {
namespace {

using test::Dying;
using test::Killed;

// Writes like the program.
class JournalledOutput final : public PruneOutput {
 public:
  JournalledOutput(CheckpointWriter& writer, Journal& journal) : writer_(writer), journal_(journal) {}
  void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> bytes) override {
    writer_.write_bytes_part(name, first, bytes);
  }
  void finish(const FinishedBlock& block) override {
    journal_.add(block);
    journal_.flush();
  }
  void read(const std::string& name, std::span<float> values) override { writer_.read(name, values); }

 private:
  CheckpointWriter& writer_;
  Journal& journal_;
};

struct KillableRun {
  const Model& model;
  const Backend& backend;
  Plan plan;
  PruneOptions options;
  TokenWindows windows;

  std::vector<PlannedTensor> layout() const {
    std::vector<PlannedTensor> result;
    for (const PlannedTensor& tensor : plan_like(model.checkpoint())) {
      for (const PlanEntry& entry : plan.entries) {
        if (entry.tensor == tensor.name) result.push_back(tensor);
      }
    }
    for (const PlannedTensor& tensor : plan_adapter(model.checkpoint(), plan)) result.push_back(tensor);
    return result;
  }

  // Dies at block `last` (-1: never) and tells how many blocks were taken over.
  std::int64_t to(const std::filesystem::path& folder, Leftover leftover, std::int64_t last) {
    CheckpointWriter writer(folder, layout(), leftover);
    writer.keep_when_unfinished();
    options.finished.clear();
    std::optional<Journal> journal;
    if (leftover == Leftover::kContinue) {
      EXPECT_TRUE(writer.continues());
      options.finished = read_journal(writer.temporary_folder()).value().blocks;
      for (const FinishedBlock& block : options.finished) {
        for (const TensorResult& tensor : block.tensors) {
          writer.mark_written(tensor.name);
          if (tensor.low_rank == 0) continue;
          writer.mark_written(adapter_left_name(linear_of(tensor.name)));
          writer.mark_written(adapter_right_name(linear_of(tensor.name)));
        }
      }
      journal.emplace(writer.temporary_folder(), [&] { writer.sync(); });
    } else {
      journal.emplace(writer.temporary_folder(), nlohmann::ordered_json{{"run", 1}}, [&] { writer.sync(); });
    }
    JournalledOutput own(writer, *journal);
    Dying output(own, last);
    const PruneResult result = prune(model, backend, plan, windows, options, output);
    EXPECT_EQ(result.tensors.size(), plan.entries.size());
    std::filesystem::remove(writer.temporary_folder() / Journal::kFileName);
    writer.finish();
    return result.resumed_blocks;
  }
};

TEST(Resume, GivesTheSameBytesForEveryFamilyAndKindOfMethod) {
  set_num_threads(1);
  const auto backend = make_cpu_backend();
  for (const std::string& name : test::model_names()) {
    const auto model = Model::open(test::kModels / name);
    if (model->config().num_layers() < 2) continue;
    for (const char* method_name : {"best", "wanda", "fast", "magnitude"}) {
      SCOPED_TRACE(name + " " + method_name);
      const Method& method = method_by_name(method_name);
      PlanDefaults defaults;
      defaults.score = method.score;
      defaults.refine = method.refine;
      KillableRun run{
          *model, *backend, uniform_plan(*model, defaults, {}), {}, test::Expected(name).windows()};
      run.options.propagation = method.propagation;
      if (method.allocates)
        allocate_by_sensitivity(std::vector<double>(run.plan.entries.size(), 1.0), run.plan);
      const test::TempDir folder;
      EXPECT_EQ(run.to(folder.path() / "whole", Leftover::kDiscard, -1), 0);
      EXPECT_THROW(run.to(folder.path() / "killed", Leftover::kDiscard, 1), Killed);
      EXPECT_EQ(run.to(folder.path() / "killed", Leftover::kContinue, -1), 1);
      EXPECT_EQ(test::read_text(folder.path() / "killed/model.safetensors"),
                test::read_text(folder.path() / "whole/model.safetensors"));
      EXPECT_FALSE(std::filesystem::exists(folder.path() / "killed/.lock"));
    }
  }
  set_num_threads(0);
}

TEST(Resume, GivesTheSameLowRankParts) {
  set_num_threads(1);
  const auto backend = make_cpu_backend();
  for (const char* refine : {"aligned-admm(8,6)", "admm(8,6)"}) {
    const auto model = Model::open(test::kModels / "llama3");
    PlanDefaults defaults{parse_pattern("1:2"), 0.5, parse_score("wanda"), parse_refine(refine)};
    defaults.low_rank = 3;
    KillableRun run{
        *model, *backend, uniform_plan(*model, defaults, {}), {}, test::Expected("llama3").windows()};
    const test::TempDir folder;
    EXPECT_EQ(run.to(folder.path() / "whole", Leftover::kDiscard, -1), 0);
    EXPECT_THROW(run.to(folder.path() / "killed", Leftover::kDiscard, 1), Killed);
    EXPECT_EQ(run.to(folder.path() / "killed", Leftover::kContinue, -1), 1);
    for (const char* file : {"model.safetensors", "adapter/adapter_model.safetensors"})
      EXPECT_EQ(test::read_text(folder.path() / "killed" / file),
                test::read_text(folder.path() / "whole" / file))
          << refine << file;
  }
  set_num_threads(0);
}

TEST(Journal, CutOffAndForeignLinesDoNotCount) {
  const test::TempDir folder;
  const auto file = folder.path() / Journal::kFileName;
  EXPECT_FALSE(read_journal(folder.path()).has_value());
  {
    Journal journal(folder.path(), {{"run", 1}}, [] {});
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      journal.add({layer, layer == 0, {{"w", "row", 2, 3, 0.5, 1.0 / 3.0, 0.1, std::nullopt, std::nullopt}}});
    }
    journal.flush();
  }
  const std::string whole = test::read_text(file);
  const auto run = read_journal(folder.path());
  ASSERT_TRUE(run.has_value());
  EXPECT_EQ(run->head.at("run"), 1);
  ASSERT_EQ(run->blocks.size(), 2u);
  EXPECT_EQ(run->blocks[0].tensors[0].sparsity, 1.0 / 3.0);
  EXPECT_EQ(run->blocks[0].tensors[0].error, 0.1);
  EXPECT_TRUE(run->blocks[0].weights_changed);

  std::ofstream(file) << whole.substr(0, whole.size() - 9);
  EXPECT_EQ(read_journal(folder.path())->blocks.size(), 1u);
  {
    Journal journal(folder.path(), [] {});
    journal.add({1, false, {}});
    journal.flush();
  }
  EXPECT_EQ(read_journal(folder.path())->blocks.size(), 2u);
  for (const char* text : {"", "{", "no json\n"}) {
    std::ofstream(file) << text;
    EXPECT_FALSE(read_journal(folder.path()).has_value()) << text;
  }
  std::ofstream(file)
      << "{}\n{\"layer\": 1, \"weights_changed\": true, \"tensors\": []}\n{\"layer\": \"x\"}\n";
  EXPECT_EQ(read_journal(folder.path())->blocks.size(), 0u);
}

}  // namespace
}  // namespace swiftprune
