// What evaluation and calibration read of models, on every device against the processor.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "evaluation/pruned_copy.h"
#include "model/family_fixture.h"
#include "support/devices.h"
#include "support/expect_error.h"
#include "support/forwards.h"
#include "support/gpu_models.h"
#include "support/random_windows.h"
#include "support/temp_dir.h"
#include "swiftprune/calibration/self_text.h"
#include "swiftprune/evaluation/continuations.h"
#include "swiftprune/evaluation/divergence.h"
#include "swiftprune/evaluation/generation_drift.h"
#include "swiftprune/report/comparison.h"

namespace swiftprune {
namespace {

using test::kModels;
using test::kTinyModel;
using test::random_windows;
using test::TempDir;
using test::write_changed;
using test::zeros;

constexpr double kFloat = 1e-4;

std::vector<ScoredWindows> scored(TokenWindows windows, std::int64_t first_target) {
  const auto count = static_cast<std::size_t>(windows.num_windows());
  return {{std::move(windows), std::vector<std::int64_t>(count, first_target)}};
}

class DeviceEvaluationTest : public test::EveryDevice {
 protected:
  DeviceEvaluationTest() {
    write_changed(folder_.path() / "pruned", zeros(2, 4));
    pruned_ = Model::open(folder_.path() / "pruned");
  }

  GeneratorMaker maker(const Model& model) {
    return [&](std::int64_t sequences, std::int64_t capacity) {
      return device_->generator(model, ComputeType::kF32, sequences, capacity, {});
    };
  }

  std::vector<std::string> family_names() const {
    return device_->kind() == DeviceKind::kCpu ? test::model_names() : test::gpu_model_names();
  }

  TempDir folder_;
  std::unique_ptr<Model> dense_ = Model::open(kTinyModel);
  std::unique_ptr<Model> pruned_;
  std::unique_ptr<Backend> cpu_ = make_cpu_backend();
};

TEST_P(DeviceEvaluationTest, PerplexityOfEveryFamily) {
  for (const std::string& name : family_names()) {
    const auto model = Model::open(kModels / name);
    const TokenWindows windows = test::Expected(name).windows();
    for (const std::int64_t first : {std::int64_t{1}, windows.seqlen / 2, windows.seqlen - 1}) {
      const auto parts = scored(windows, first);
      const PerplexityResult expected = test::perplexity_of(*model, *cpu_, parts);
      const Model* models[] = {model.get()};
      const PerplexityResult found = perplexity(*model, *device_->text_forwards(models, {}), parts, {});
      ASSERT_EQ(found.window_nll.size(), expected.window_nll.size()) << name;
      EXPECT_EQ(found.num_tokens, expected.num_tokens) << name;
      for (std::size_t w = 0; w < found.window_nll.size(); ++w) {
        EXPECT_NEAR(found.window_nll[w], expected.window_nll[w], kFloat) << name << " window " << w;
      }
    }
  }
}

// Shared and padded beginnings, sequences of many lengths.
TEST_P(DeviceEvaluationTest, ContinuationsOfEveryFamily) {
  for (const std::string& name : family_names()) {
    const auto model = Model::open(kModels / name);
    const TokenWindows windows = test::Expected(name).windows();
    const auto first = windows.window(0), second = windows.window(1);
    std::vector<std::vector<ScoredSequence>> items(3);
    for (const std::int64_t common : {9, 11, 12}) {
      ScoredSequence s{{first.begin(), first.begin() + common}, 8};
      s.ids.insert(s.ids.end(), second.begin(), second.begin() + (14 - common));
      items[0].push_back(s);
    }
    items[1] = {{{second.begin(), second.end()}, 1}};
    items[2] = {{{first.begin(), first.begin() + 2}, 1}, {{second.begin(), second.begin() + 3}, 2}};
    const Model* models[] = {model.get()};
    const auto forwards = device_->text_forwards(models, {});
    const ContinuationScores found = score_continuations(*model, *forwards, items, {});
    const ContinuationScores expected =
        score_continuations(*model, *test::forwards_of(*model, *cpu_), items, {});
    EXPECT_EQ(found.num_unshared, expected.num_unshared);
    EXPECT_GE(found.num_forwarded, expected.num_forwarded);
    EXPECT_LE(found.num_forwarded, found.num_unshared);
    for (std::size_t i = 0; i < items.size(); ++i) {
      for (std::size_t c = 0; c < items[i].size(); ++c) {
        EXPECT_NEAR(found.items[i][c].log_prob, expected.items[i][c].log_prob, 1e-3)
            << name << " item " << i << " sequence " << c;
        EXPECT_EQ(found.items[i][c].greedy, expected.items[i][c].greedy) << name;
      }
    }
  }
}

TEST_P(DeviceEvaluationTest, DivergencesOfSeveralModels) {
  const std::vector<const Model*> models = {dense_.get(), pruned_.get(), dense_.get()};
  std::vector<ScoredWindows> parts = scored(random_windows(*dense_, 3, 40), 1);
  parts.push_back(scored(random_windows(*dense_, 1, 9), 5).front());
  const auto on_cpu = make_cpu_text_forwards(models, *cpu_, {});
  const auto on_device = device_->text_forwards(models, {});
  const auto expected = compare_models(models, *on_cpu, parts, {.num_worst = 4, .progress = {}});
  const auto found = compare_models(models, *on_device, parts, {.num_worst = 4, .progress = {}});
  ASSERT_EQ(found.size(), 3u);
  for (std::size_t m = 0; m < found.size(); ++m) {
    EXPECT_NEAR(found[m].perplexity.mean_nll, expected[m].perplexity.mean_nll, kFloat);
  }
  const Divergence &a = *found[1].divergence, &b = *expected[1].divergence;
  EXPECT_GT(a.mean_kl, 0.01);
  EXPECT_NEAR(a.mean_kl, b.mean_kl, kFloat);
  EXPECT_NEAR(a.p99_kl, b.p99_kl, 1e-3);
  EXPECT_NEAR(a.top1, b.top1, 0.02);
  ASSERT_EQ(a.worst.size(), b.worst.size());
  for (std::size_t i = 0; i < a.worst.size(); ++i) {
    EXPECT_NEAR(a.worst[i].kl, b.worst[i].kl, 1e-3);
    EXPECT_EQ(a.worst[i].position, b.worst[i].position);
    ASSERT_EQ(a.worst[i].dense.size(), b.worst[i].dense.size());
    EXPECT_EQ(a.worst[i].dense[0].id, b.worst[i].dense[0].id);
    EXPECT_NEAR(a.worst[i].dense[0].probability, b.worst[i].dense[0].probability, kFloat);
    EXPECT_NEAR(a.worst[i].pruned_probability, b.worst[i].pruned_probability, kFloat);
  }
  // The model beside itself.
  EXPECT_NEAR(found[2].divergence->max_kl, 0.0, 1e-6);
  EXPECT_EQ(found[2].divergence->top1, 1.0);
}

// The lowest of equally likely tokens, and rows in any order.
TEST_P(DeviceEvaluationTest, RowsAreScoredInAnyOrder) {
  const Model* models[] = {dense_.get()};
  const TokenWindows windows = random_windows(*dense_, 2, 12);
  const std::vector<std::int64_t> rows = {17, 0, 23, 17};
  const std::vector<std::int32_t> targets = {3, 0, 5, 3};
  const auto score = [&](TextForwards& forwards) {
    forwards.prepare(windows.seqlen);
    forwards.run(0, windows, 0, 2, [](std::int64_t) {});
    std::vector<double> log_probs(rows.size());
    std::vector<std::int32_t> best(rows.size());
    forwards.score(0, rows, targets, log_probs, best);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::vector<float> logits = forwards.logits(0, static_cast<std::int64_t>(i));
      EXPECT_EQ(best[i], std::max_element(logits.begin(), logits.end()) - logits.begin());
    }
    return log_probs;
  };
  const std::vector<double> found = score(*device_->text_forwards(models, {}));
  const std::vector<double> expected = score(*make_cpu_text_forwards(models, *cpu_, {}));
  EXPECT_EQ(found[0], found[3]);
  for (std::size_t i = 0; i < rows.size(); ++i) EXPECT_NEAR(found[i], expected[i], kFloat);
}

TEST_P(DeviceEvaluationTest, BlockErrorsOfEveryFamily) {
  for (const std::string& name : family_names()) {
    const auto dense = Model::open(kModels / name);
    // write_changed() knows matrices and vectors only.
    const auto& tensors = dense->checkpoint().tensors();
    if (std::ranges::any_of(tensors,
                            [](const TensorInfo& t) { return t.shape.empty() || t.shape.size() > 2; }))
      continue;
    // Every fourth weight of every matrix of the second block.
    const auto folder = folder_.path() / name;
    write_changed(
        folder,
        [](const std::string& tensor, std::vector<float>& values) {
          if (tensor.find(".1.") == std::string::npos || tensor.find("norm") != std::string::npos) return;
          for (std::size_t i = 0; i < values.size(); i += 4) values[i] = 0.0f;
        },
        {}, kModels / name);
    const auto pruned = Model::open(folder);
    const TokenWindows windows = test::Expected(name).windows();
    const auto make = [&](TokenWindows part) {
      return device_->paired_blocks(*dense, *pruned, std::move(part), ComputeType::kF32);
    };
    const auto found = block_errors(*dense, *pruned, make, windows, 1 << 20, {});
    const auto expected =
        block_errors(*dense, *pruned, test::pairs_of(*dense, *pruned, *cpu_), windows, 1 << 20, {});
    ASSERT_TRUE(found && expected);
    ASSERT_EQ(found->size(), expected->size());
    EXPECT_GT((*expected)[1].own, 0.0) << name;
    for (std::size_t b = 0; b < found->size(); ++b) {
      const BlockError &x = (*found)[b], &y = (*expected)[b];
      EXPECT_NEAR(x.own, y.own, 1e-3 * y.own + 1e-9) << name << " block " << b;
      EXPECT_NEAR(x.total, y.total, 1e-3 * y.total + 1e-9) << name << " block " << b;
      ASSERT_EQ(x.linears.size(), y.linears.size());
      for (std::size_t i = 0; i < x.linears.size(); ++i) {
        EXPECT_EQ(x.linears[i].name, y.linears[i].name);
        EXPECT_NEAR(x.linears[i].error, y.linears[i].error, 1e-3 * y.linears[i].error + 1e-9)
            << x.linears[i].name;
      }
    }
  }
}

TEST_P(DeviceEvaluationTest, EnoughCalibrationTextIsTheSame) {
  // Segments of 256 tokens and a shorter one.
  const auto model = Model::open(kModels / "pythia");
  const std::int64_t seqlen = std::min<std::int64_t>(model->config().max_positions, 300);
  const TokenWindows windows = random_windows(*model, 8, seqlen);
  const auto changes = [&](InputEnergies& energies) {
    return windows_until_stable(*model, energies, windows, 0.0, {}).changes;
  };
  const auto found = changes(*device_->input_energies(*model, windows, ComputeType::kF32));
  const auto expected = changes(*make_cpu_input_energies(*model, *cpu_, windows, ComputeType::kF32));
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-5);
}

TEST_P(DeviceEvaluationTest, SelfWrittenTextIsTheModelsOwn) {
  SelfTextOptions options;
  options.windows = 2;
  options.seqlen = 48;
  options.sample_length = 16;
  options.seed = 5;
  options.first_token = 1;
  const TokenWindows text = self_text(maker(*dense_), options);
  ASSERT_EQ(text.num_windows(), 2);
  for (const std::int32_t id : text.ids) EXPECT_TRUE(id >= 0 && id < dense_->config().vocab_size);
  for (std::size_t i = 0; i < text.ids.size(); i += 16) EXPECT_EQ(text.ids[i], 1);
  EXPECT_EQ(text.ids, self_text(maker(*dense_), options).ids);
  options.seed = 6;
  EXPECT_NE(text.ids, self_text(maker(*dense_), options).ids);
}

TEST_P(DeviceEvaluationTest, TheWholeComparison) {
  const auto run = [&](Device& device) {
    ComparisonInput input;
    input.models = {dense_.get(), pruned_.get()};
    input.folders = {kTinyModel.string(), (folder_.path() / "pruned").string()};
    input.parts = scored(random_windows(*dense_, 3, 40), 1);
    input.text = "random";
    input.prompts = {{"a", "The sun is a", {}}, {"b", "Cats", {}}};
    input.max_tokens = 8;
    input.gates = {.max_perplexity_ratio = 1e9, .min_top1 = 1.0, .max_kl = 1e9};
    return compare(input, device);
  };
  const ComparisonReport found = run(*device_), expected = run(*open_device("cpu"));
  EXPECT_FALSE(found.passed());
  EXPECT_EQ(found.gates[0].gate, "--min-top1");
  const ModelReport &a = found.models[1], &b = expected.models[1];
  EXPECT_NEAR(a.divergence->mean_kl, b.divergence->mean_kl, kFloat);
  EXPECT_NEAR((*a.block_errors)[1].own, (*b.block_errors)[1].own, 1e-3 * (*b.block_errors)[1].own);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(a.generation->answers[i].ids, b.generation->answers[i].ids);
  }
  EXPECT_EQ(a.drift->identical, b.drift->identical);
}

TEST_P(DeviceEvaluationTest, TakesMoreTextWhereItCostsLittle) {
  const Method& best = method_by_name("best");
  const std::int64_t windows = device_->default_windows(best, *dense_, 64);
  EXPECT_EQ(windows, device_->kind() == DeviceKind::kCpu ? best.windows : best.gpu_windows);
  // Hidden states of which not even one window fits.
  EXPECT_EQ(device_->default_windows(best, *dense_, std::int64_t{1} << 36), best.windows);
  EXPECT_EQ(device_->default_windows(method_by_name("wanda"), *dense_, 64), method_by_name("wanda").windows);
  EXPECT_EQ(device_->default_windows(method_by_name("magnitude"), *dense_, 64), 1);
}

TEST_P(DeviceEvaluationTest, PlansThatItHasNotAreRefusedAtOnce) {
  device_->check_model(*dense_);
  PruneOptions options;
  options.select = SelectKind::kEwma;
  PlanDefaults defaults;
  defaults.score = parse_score("contribution");
  Plan plan = uniform_plan(*dense_, defaults, {});
  if (device_->kind() == DeviceKind::kCpu) {
    device_->check_plan(*dense_, plan, options);
    return;
  }
  test::expect_error(
      ErrorKind::kUsage, [&] { device_->check_plan(*dense_, plan, options); }, "--select: found ewma",
      "use --device cpu");
  options.select = PruneOptions{}.select;
  PlanEntry* pruned[2] = {};
  for (PlanEntry& entry : plan.entries) {
    if (entry.input == LinearInput::kAttention && entry.prune && pruned[0] == nullptr) {
      pruned[0] = &entry;
    } else if (entry.input == LinearInput::kAttention && entry.prune && pruned[1] == nullptr) {
      pruned[1] = &entry;
    }
  }
  ASSERT_NE(pruned[1], nullptr);
  pruned[0]->refine = parse_refine("pcg(20)");
  pruned[1]->refine = parse_refine("swaps(10)");
  test::expect_error(
      ErrorKind::kUsage, [&] { device_->check_plan(*dense_, plan, options); }, pruned[1]->tensor, "refine");
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceEvaluationTest, ::testing::ValuesIn(test::kDeviceNames),
                         test::device_label);

}  // namespace
}  // namespace swiftprune
