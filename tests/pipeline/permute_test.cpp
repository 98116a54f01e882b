// Plan::permute: what stands in the file is the model's own function with fewer weights, in an order that loses less.
#include <fstream>
#include <optional>

#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/collected_output.h"
#include "support/expect_error.h"
#include "support/prune_to_folder.h"
#include "support/temp_dir.h"
#include "support/thread_ranks.h"
#include "swiftprune/model/channel_fold.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/pipeline/capabilities.h"
#include "swiftprune/pipeline/checkpoint_output.h"
#include "swiftprune/pipeline/drivers/channel_orders.h"
#include "swiftprune/pipeline/journal.h"

namespace swiftprune {
namespace {

using test::Dying;
using test::Killed;

Plan permuting_plan(const Model& model, const char* method_name, const char* pattern, Permute permute) {
  const Method& method = method_by_name(method_name);
  PlanDefaults defaults;
  defaults.pattern = parse_pattern(pattern);
  defaults.score = method.n_m_score;
  defaults.refine = method.refine;
  Plan plan = uniform_plan(model, defaults, {});
  plan.permute = permute;
  return plan;
}

// The plan, where the model's sizes and blocks let it be done.
std::optional<Plan> plan_if_possible(const Model& model, const char* method, const char* pattern) {
  try {
    Plan plan = permuting_plan(model, method, pattern, Permute::kAll);
    check_permute(plan, model.config());
    return plan;
  } catch (const Error&) {
    return std::nullopt;
  }
}

struct Pruning {
  std::unique_ptr<Model> model;
  const Backend& backend;
  TokenWindows windows;
  PruneOptions options = {};

  PruneResult operator()(const Plan& plan, PruneOutput& output) const {
    return prune(*model, backend, plan, windows, options, output);
  }
};

const Backend& cpu() {
  static const auto cpu = make_cpu_backend();
  return *cpu;
}

Pruning run_of(const std::string& name) {
  return {Model::open(test::model_folder(name)), cpu(), test::Expected(name).windows()};
}

// Back in the model's order, every kept weight is the dense one; in the file's order the pattern holds.
void expect_dense_weights(const Pruning& run, const FinishedBlock& finished, const test::Collected& output,
                          int group) {
  DecoderBlock block = run.model->load_block(finished.layer);
  for (const LinearInput input : {LinearInput::kAttentionOutput, LinearInput::kMlpOutput}) {
    const auto fold = channel_fold(run.model->config(), block.config(), input).value();
    const std::string projection = block.linears()[fold.linear].tensors.name + ".weight";
    for (const TensorResult& tensor : finished.tensors) {
      if (tensor.name != projection || tensor.order.empty()) continue;
      EXPECT_TRUE(fits(fold, tensor.order));
      for (std::size_t i = 0; i < block.linears().size(); ++i) {
        BlockLinear& linear = block.linears()[i];
        reorder_linear(fold, fold.of_channels(tensor.order), i, linear.weight.view(), linear.bias);
      }
    }
  }
  for (const BlockLinear& linear : block.linears()) {
    const std::vector<float> found = output.values(linear.tensors.name + ".weight");
    const auto dense = linear.weight.values();
    for (std::size_t i = 0; i < found.size(); ++i)
      ASSERT_TRUE(found[i] == 0.0f || found[i] == dense[i]) << linear.tensors.name << " " << i;
    for (auto g = found.begin(); g != found.end(); g += group)
      ASSERT_GE(std::count(g, g + group, 0.0f), group / 2) << linear.tensors.name;
    const std::string bias = linear.tensors.name + ".bias";
    if (output.tensors.contains(bias)) {
      EXPECT_EQ(output.values(bias), linear.bias);
    }
  }
}

TEST(Permute, KeepsTheModelsWeightsInAnotherOrder) {
  int reordered = 0, biases = 0;
  for (const std::string& name : test::model_names()) {
    const Pruning run = run_of(name);
    for (const int group : {2, 4}) {
      const auto plan = plan_if_possible(*run.model, "wanda", group == 2 ? "1:2" : "2:4");
      if (!plan) continue;
      SCOPED_TRACE(fmt::format("{} {}", name, group));
      test::Collected output(run.model->checkpoint());
      const PruneResult result = run(*plan, output);
      EXPECT_FALSE(result.weights_changed);
      for (const TensorResult& tensor : result.tensors) reordered += tensor.order.empty() ? 0 : 1;
      for (const FinishedBlock& finished : output.finished) {
        expect_dense_weights(run, finished, output, group);
        biases += static_cast<int>(std::ssize(finished.reordered));
      }
    }
  }
  EXPECT_GT(reordered, 100);
  EXPECT_GT(biases, 20);
}

// Each order is kept only where it lowers the error that selection leaves.
TEST(Permute, LowersTheErrorOfSelection) {
  for (const char* name : {"llama3", "qwen2", "pythia", "phi3"}) {
    SCOPED_TRACE(name);
    Pruning run = run_of(name);
    run.options.propagation = Propagation::kDense;  // every linear sees the same inputs in both runs
    const auto errors = [&](Permute permute) {
      test::Collected output(run.model->checkpoint());
      return run(permuting_plan(*run.model, "wanda", "2:4", permute), output);
    };
    const PruneResult without = errors(Permute::kNone), with = errors(Permute::kAll);
    for (std::size_t i = 0; i < with.tensors.size(); ++i) {
      if (with.tensors[i].order.empty()) {
        EXPECT_EQ(with.tensors[i].error, without.tensors[i].error);
      } else {
        EXPECT_LT(*with.tensors[i].error, *without.tensors[i].error);
      }
    }
  }
}

// Writes the folder as the program does; dies at block `last`, or never (-1). Returns the blocks that it took over.
std::int64_t write(Pruning& run, const Plan& plan, const std::filesystem::path& folder, Leftover leftover,
                   std::int64_t last) {
  CheckpointWriter writer(folder, plan_like(run.model->checkpoint()), leftover);
  writer.keep_when_unfinished();
  run.options.finished.clear();
  std::optional<Journal> journal;
  const auto sync = [&] { writer.sync(); };
  if (leftover == Leftover::kContinue) {
    run.options.finished = read_journal(writer.temporary_folder()).value().blocks;
    journal.emplace(writer.temporary_folder(), sync);
  } else {
    journal.emplace(writer.temporary_folder(), nlohmann::ordered_json{{"run", 1}}, sync);
  }
  CheckpointOutput output(run.model->checkpoint(), writer, &*journal, run.options.finished);
  Dying dying(output, last);
  try {
    const PruneResult result = run(plan, dying);
    output.copy_rest();
    std::filesystem::remove(writer.temporary_folder() / Journal::kFileName);
    writer.copy_other_files(run.model->checkpoint());
    writer.finish();
    return result.resumed_blocks;
  } catch (const Killed&) {
    journal->flush();
    throw;
  }
}

TEST(Permute, AKilledRunGoesOnToTheSameBytes) {
  for (const char* name : {"qwen2", "llama_bias", "phi3", "pythia", "gpt2"}) {
    for (const char* method : {"wanda", "best", "magnitude"}) {
      SCOPED_TRACE(fmt::format("{} {}", name, method));
      Pruning run = run_of(name);
      run.options.propagation = method_by_name(method).propagation;
      Plan plan = permuting_plan(*run.model, method, "1:2", Permute::kAll);
      // What makes reordered inputs is written even where it is not pruned.
      for (PlanEntry& entry : plan.entries) entry.prune = is_output(entry.input) || entry.rows % 3 == 0;
      const test::TempDir folder;
      EXPECT_EQ(write(run, plan, folder.path() / "whole", Leftover::kDiscard, -1), 0);
      EXPECT_THROW(write(run, plan, folder.path() / "killed", Leftover::kDiscard, 1), Killed);
      EXPECT_EQ(write(run, plan, folder.path() / "killed", Leftover::kContinue, -1), 1);
      EXPECT_EQ(test::read_text(folder.path() / "killed/model.safetensors"),
                test::read_text(folder.path() / "whole/model.safetensors"));
    }
  }
}

TEST(Permute, RanksWriteWhatOneProcessWrites) {
  const Pruning run = run_of("qwen2");
  for (const char* method : {"wanda", "best"}) {
    const Plan plan = permuting_plan(*run.model, method, "2:4", Permute::kAll);
    test::Collected whole(run.model->checkpoint());
    run(plan, whole);
    test::ThreadRanks(2).run([&](Communicator& ranks) {
      PruneOptions options = run.options;
      options.ranks = &ranks;
      test::Collected shared(run.model->checkpoint());
      prune(*run.model, run.backend, plan, run.windows, options, shared);
      EXPECT_EQ(shared.tensors, whole.tensors) << method;
    });
  }
}

TEST(Permute, IsRefusedByNameWhereItCannotBeDone) {
  const auto refused = [](
                           const std::string& name, const char* pattern, Permute permute,
                           const std::string& text, const std::function<void(Plan&)>& change = [](Plan&) {}) {
    const auto model = Model::open(test::model_folder(name));
    Plan plan = permuting_plan(*model, "magnitude", pattern, permute);
    change(plan);
    test::expect_error(
        ErrorKind::kUsage, [&] { check_permute(plan, model->config()); }, text);
  };
  refused("llama3", "row", Permute::kAll, "no output projection that is pruned N:M");
  refused("lfm2", "2:4", Permute::kAll, "a mixer in attention's place");
  refused("qwen3_5", "2:4", Permute::kAll, "--permute mlp");
  refused("mixtral", "2:4", Permute::kMlp, "experts");
  refused("llama3", "2:4", Permute::kMlp, "pattern block", [](Plan& plan) {
    for (PlanEntry& entry : plan.entries) {
      if (entry.input == LinearInput::kMlp) entry.pattern = parse_pattern("block:2x2");
    }
  });
  refused("llama3", "2:4", Permute::kMlp, "grid int8(row)", [](Plan& plan) {
    for (PlanEntry& entry : plan.entries) entry.grid = parse_grid("int8(row)", "test");
  });
  const auto model = Model::open(test::kModels / "lfm2");
  const Plan plan = permuting_plan(*model, "magnitude", "2:4", Permute::kMlp);
  EXPECT_NO_THROW(check_permute(plan, model->config()));
  Capabilities other = cpu_capabilities();
  other.permutations = false;
  other.where = "there";
  test::expect_error(
      ErrorKind::kUsage, [&] { check_plan(plan, SelectKind::kRadix, other); },
      "--permute: found mlp, expected none there");
}

TEST(Permute, StandsInThePlansFile) {
  const auto model = Model::open(test::kModels / "llama3");
  Plan plan = permuting_plan(*model, "magnitude", "2:4", Permute::kMlp);
  const auto document = to_json(plan);
  EXPECT_EQ(document.at("permute"), "mlp");
  plan.permute = Permute::kNone;
  EXPECT_FALSE(to_json(plan).contains("permute"));
  apply_plan(document, "plan", plan);
  EXPECT_EQ(plan.permute, Permute::kMlp);
  auto wrong = document;
  wrong["permute"] = "some";
  test::expect_error(
      ErrorKind::kUsage, [&] { apply_plan(wrong, "plan", plan); }, "found 'some'");
  wrong["permute"] = 3;
  test::expect_error(
      ErrorKind::kBadInput, [&] { apply_plan(wrong, "plan", plan); }, "found 3");
}

}  // namespace
}  // namespace swiftprune
