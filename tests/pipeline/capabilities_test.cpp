// What a device has not is refused by name when the plan is made, with what it has. The GPU's table is
// checked here too, since it is compiled where there is no GPU.
#include "swiftprune/pipeline/capabilities.h"

#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "support/collected_output.h"
#include "support/expect_error.h"
#include "support/random_windows.h"
#include "swiftprune/cuda/capabilities.h"
#include "swiftprune/model/family.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

using test::expect_error;

const std::filesystem::path kCheckedModels = SWIFTPRUNE_TEST_DATA "/model";
constexpr SelectKind kExact = kDefaultSelector;

class CapabilitiesTest : public ::testing::Test {
 protected:
  Plan plan(const ScoreSpec& score, std::string_view refine = "none",
            std::string_view pattern = "row") const {
    const RefineSpec spec = parse_refine(refine);
    const auto grid = spec.facts().needs_grid ? std::optional(parse_grid("int4(row)", "test")) : std::nullopt;
    return uniform_plan(*model_, {parse_pattern(pattern), 0.5, score, spec, grid}, {});
  }
  void expect_refused(const Plan& plan, const Capabilities& device,
                      std::initializer_list<std::string> texts) {
    expect_error(
        ErrorKind::kUsage, [&] { check_plan(plan, kExact, device); }, texts);
  }
  std::unique_ptr<Model> model_ = Model::open(kCheckedModels / "llama2");
};

TEST_F(CapabilitiesTest, TheProcessorHasEverything) {
  for (const ScoreKind* kind : score_kinds()) {
    for (const RefinerInfo& refiner : refiners()) {
      for (const SelectorInfo& select : selectors())
        check_plan(plan(ScoreSpec(*kind), refiner.name), select.kind, cpu_capabilities());
    }
  }
  check_plan(plan(ScoreSpec(), "admm+pcg", "block:1x2"), kExact, cpu_capabilities());
  for (const auto& folder : std::filesystem::directory_iterator(kCheckedModels)) {
    if (folder.is_directory()) check_model(Model::open(folder.path())->config(), cpu_capabilities());
  }
}

TEST_F(CapabilitiesTest, WhatTheGpuHas) {
  const Capabilities& gpu = cuda::capabilities();
  for (const ScoreKind* kind : score_kinds()) EXPECT_TRUE(gpu.has(ScoreSpec(*kind))) << kind->name;
  for (const RefinerInfo& refiner : refiners()) {
    if (parse_refine(refiner.name).facts().needs_grid) continue;
    for (const char* pattern : {"row", "layer", "1:2"})
      check_plan(plan(ScoreSpec(), refiner.name, pattern), kExact, gpu);
  }
  for (const char* refine : {"none", "pcg", "admm", "aligned-admm+pcg"})
    check_plan(plan(ScoreSpec(), refine, "block:1x2"), kExact, gpu);
  check_plan(plan(ScoreSpec(), "sparsegpt+swaps(20)+pcg(5)"), kExact, gpu);
  for (const auto& folder : std::filesystem::directory_iterator(kCheckedModels)) {
    if (!folder.is_directory()) continue;
    const ModelConfig model = Model::open(folder.path())->config();
    std::vector<ModelFeature> missing;
    std::ranges::set_difference(features_of(model), gpu.features, std::back_inserter(missing));
    if (missing.empty()) {
      check_model(model, gpu);
    } else {
      expect_error(ErrorKind::kUsage, [&] { check_model(model, gpu); },
                   {std::string(name_of(missing.front())), "on a GPU", "--device cpu"});
    }
  }
}

// What the forward on a GPU has not yet; a feature that it gets goes from here to its table.
TEST_F(CapabilitiesTest, FeaturesThatOnlyTheProcessorHas) {
  using enum ModelFeature;
  std::set<ModelFeature> missing(all_model_features().begin(), all_model_features().end());
  for (const ModelFeature feature : cuda::capabilities().features) missing.erase(feature);
  EXPECT_EQ(missing, std::set<ModelFeature>{kSigmoid});
}

TEST_F(CapabilitiesTest, WhatTheGpuHasNot) {
  const Capabilities& gpu = cuda::capabilities();
  expect_error(ErrorKind::kUsage, [&] { check_plan(plan(ScoreSpec()), SelectKind::kEwma, gpu); },
               {"--select", "ewma", "ewma-window, radix or sort", "on a GPU", "--device cpu"});
  Plan joint = plan(ScoreSpec(), "aligned-admm");
  joint.entries.back().grid = parse_grid("int3(row)", "test");
  check_plan(joint, SelectKind::kEwmaWindow, gpu);
  joint = plan(ScoreSpec(), "sparsegpt");
  joint.entries.back().grid = parse_grid("int3(row)", "test");
  expect_refused(joint, gpu,
                 {joint.entries.back().tensor, "quantize", "int3(row) with sparsegpt",
                  "admm, aligned-admm, rtn or gptq on a GPU", "--device cpu"});
  expect_refused(plan(ScoreSpec(), "sparsegpt", "block:1x2"), gpu,
                 {"layers.0", "block:1x2 with sparsegpt", "row, layer or N:M on a GPU", "--device cpu"});
  expect_refused(plan(ScoreSpec(), "sparsegpt+pcg", "block:1x2"), gpu, {"block:1x2 with sparsegpt"});
  for (const char* name : {"qwen3_moe", "gpt_oss", "deepseek_v2", "nemotron_h_moe"}) {
    ModelConfig experts = Model::open(kCheckedModels / "../experts" / name)->config();
    check_model(experts, gpu);
    check_model(experts, cpu_capabilities());
    expect_error(ErrorKind::kUsage,
                 [&] { check_without_experts(experts, "--allocate sensitivity", "leave it out"); },
                 {"--allocate sensitivity", "experts", "leave it out"});
  }
  ModelConfig other = model_->config();
  other.activation = Activation::kSigmoid;
  expect_error(ErrorKind::kUsage, [&] { check_model(other, gpu); },
               {std::string(name_of(ModelFeature::kSigmoid)), "on a GPU", "--device cpu"});

  Plan mixed = plan(ScoreSpec(), "admm(20,15)");
  apply_override("*.layers.0.*k_proj.weight", "refine=admm(10)+pcg", mixed);
  expect_refused(mixed, gpu, {"k_proj", "admm(10)+pcg", "admm(20,15) as for the other linears", "on a GPU"});
  check_plan(mixed, kExact, cpu_capabilities());
  // The same numbers in other words, none of them, or another input: no difference that the GPU minds.
  Plan same = plan(ScoreSpec(), "admm(20,15)");
  apply_override("*.layers.0.*k_proj.weight", "refine=admm", same);
  apply_override("*.layers.0.*v_proj.weight", "refine=none", same);
  apply_override("*.layers.0.*down_proj.weight", "refine=pcg", same);
  apply_override("*.layers.1.*", "refine=swaps", same);
  check_plan(same, kExact, gpu);
  // What is not pruned needs nothing.
  for (PlanEntry& entry : mixed.entries) entry.prune = entry.tensor.find("k_proj") == std::string::npos;
  check_plan(mixed, kExact, gpu);

  ModelConfig config = model_->config();
  config.head_size = 1024;
  expect_error(ErrorKind::kUsage, [&] { check_model(config, gpu); },
               {"llama", "heads of 1024", "at most 512 on a GPU", "--device cpu"});
}

// Each part of a table that lacks it.
TEST_F(CapabilitiesTest, EachLackIsRefusedByName) {
  const auto without = [](const auto& change) {
    Capabilities device = cpu_capabilities();
    device.where = "on a toy";
    device.instead = "use another";
    change(device);
    return device;
  };
  const ScoreSpec wanda = parse_score("wanda");
  expect_refused(
      plan(ScoreSpec(kRiaScore)), without([](Capabilities& c) { c.reads_weights = false; }),
      {"score: found ria(0.7), which reads the weights", "magnitude, paper", "on a toy; use another"});
  expect_refused(plan(wanda), without([](Capabilities& c) { c.score_statistics = {.sum = true}; }),
                 {"score: found wanda, which reads statistics that are not on the host", "magnitude"});
  expect_refused(plan(wanda, "none", "layer"), without([](Capabilities& c) {
                   c.patterns = {Pattern::Kind::kRow, Pattern::Kind::kNofM};
                 }),
                 {"pattern: found layer, expected row or N:M on a toy"});
  expect_refused(plan(wanda, "admm+pcg"), without([](Capabilities& c) { c.chains = false; }),
                 {"refine: found admm+pcg, expected a single refinement on a toy"});
  expect_refused(plan(wanda, "swaps(9)"), without([](Capabilities& c) { c.refinements.resize(2); }),
                 {"refine: found swaps(9), expected none, pcg or admm on a toy"});
  for (const ModelFeature feature : features_of(model_->config())) {
    const Capabilities device = without([&](Capabilities& c) { c.features.erase(feature); });
    expect_error(ErrorKind::kUsage, [&] { check_model(model_->config(), device); },
                 {fmt::format("found {}, expected", name_of(feature)), "llama", "on a toy; use another"});
  }
  // A score that finds no use is not looked at: admm finds its own mask.
  check_plan(plan(ScoreSpec(kRiaScore), "admm"), kExact,
             without([](Capabilities& c) { c.reads_weights = false; }));
}

TEST_F(CapabilitiesTest, FeaturesOfTheFamilies) {
  using enum ModelFeature;
  const auto has = [](const char* name, std::set<ModelFeature> expected) {
    const std::set<ModelFeature> found = features_of(Model::open(kCheckedModels / name)->config());
    for (const ModelFeature feature : expected)
      EXPECT_TRUE(found.contains(feature)) << name << ": " << name_of(feature);
  };
  has("llama2", {kRmsNorm, kSeparateQkv, kGatedMlp, kRotary});
  has("gemma2", {kNormGainOffset, kOutputNorms, kGeluTanh, kAttentionSoftcap, kFinalSoftcap, kEmbeddingScale,
                 kAttentionWindow});
  has("opt", {kLayerNorm, kPlainMlp, kRelu, kLearnedPositions, kNoRotary, kLinearBias});
  has("pythia", {kLayerNorm, kInterleavedQkv, kParallelResidual, kPlainMlp});
  has("phi3_longrope", {kStackedQkv, kLongRotary});
  has("qwen3", {kQueryKeyNorms});
  has("qwen3_5", {kGatedDeltaNet, kGatedHeads, kRotary, kQueryKeyNorms});
  has("lfm2", {kShortConvolution});
  has("granite4_mamba", {kMamba2, kNoRotary});
  has("falcon_h1", {kMamba2, kParallelMixers, kLinearScale, kRotary});
  has("gemma4", {kHeadSizes, kKeysAreValues, kValueNorms, kOutputScale});
  has("gemma4_small", {kSharedKeys, kLayerEmbeddings});
  has("bloom", {kSlopes, kEmbeddingNorm});
  has("gpt2", {kTransposedLinears, kLearnedPositions, kStackedQkv});
  has("nemotron", {kLayerNormGainOffset, kReluSquared, kPlainMlp});
  has("../experts/granitemoe", {kExperts, kScaledExperts});
  has("../experts/nemotron_h_moe", {kExperts, kPlainExperts, kSingleParts});
  has("../experts/olmoe", {kExperts, kNormsOfAllHeads, kQkvClip});
  has("../experts/gpt_oss", {kExperts, kAttentionSinks, kClampedSwiglu});
  has("../experts/deepseek_v3", {kExperts, kLatentAttention});
  std::set<std::string_view> names;
  for (const ModelFeature feature : all_model_features()) names.insert(name_of(feature));
  EXPECT_EQ(names.size(), all_model_features().size());
}

// -- A score that no list knows: one constant, as a file in scoring/ has it.

Scores energy_factors(const ScoreInput& input) {
  Scores scores;
  scores.column = column_factors(
      input.num_inputs, [&](std::size_t j) { return std::pow(input.stats.energy[j], input.parameter); });
  return scores;
}
// As wanda for 1/2.
const ScoreKind kOfStatistics{
    .name = "exercise",
    .summary = "|w|·e_j^a",
    .source = "this test",
    .needs = {.energy = true},
    .parameter = {.meaning = "a", .fallback = 0.5, .range = {.min = 0.0, .max = 3.0}},
    .from_statistics = energy_factors};

Scores negated(WeightView weight, const ScoreInput&) {
  Matrix values(weight.rows, weight.cols);
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    convert_to_f32({weight.row(r), static_cast<std::size_t>(weight.cols * size_of(weight.dtype))},
                   weight.dtype, values.view().row_span(r));
    for (float& value : values.view().row_span(r)) value = 1.0f / (1.0f + std::abs(value));
  }
  Scores scores;
  scores.plain = std::move(values);
  return scores;
}
// The largest weights go.
const ScoreKind kOfWeights{
    .name = "contrary", .summary = "1/(1 + |w|)", .source = "this test", .from_weights = negated};

TEST_F(CapabilitiesTest, ANewScoreRunsOnBothDevicesOrIsRefusedByName) {
  std::vector<const ScoreKind*> kinds(score_kinds().begin(), score_kinds().end());
  kinds.insert(kinds.end(), {&kOfStatistics, &kOfWeights});
  const auto backend = make_cpu_backend();
  const auto run = [&](const ScoreSpec& score) {
    test::Collected output(model_->checkpoint());
    prune(*model_, *backend, plan(score), test::random_windows(*model_), {}, output);
    std::map<std::string, std::vector<float>> values;
    for (const auto& [name, bytes] : output.tensors) values[name] = output.values(name);
    return values;
  };
  // Of the statistics alone: nothing more is asked of a device.
  const ScoreSpec of_statistics = parse_score("exercise", kinds);
  check_plan(plan(of_statistics), kExact, cuda::capabilities());
  EXPECT_EQ(run(of_statistics), run(parse_score("wanda")));
  EXPECT_NE(run(parse_score("exercise(2)", kinds)), run(parse_score("wanda")));

  // Of the weights: the GPU has no way of its own for it, and says so.
  const ScoreSpec of_weights = parse_score("contrary", kinds);
  const auto kept = run(of_weights);
  for (const auto& [name, values] : run(ScoreSpec())) {
    std::size_t opposite = 0;
    for (std::size_t i = 0; i < values.size(); ++i)
      opposite += (values[i] == 0.0f) != (kept.at(name)[i] == 0.0f) ? 1 : 0;
    EXPECT_GT(opposite, values.size() * 9 / 10) << name;
  }
  expect_refused(plan(of_weights), cuda::capabilities(),
                 {"score: found contrary, which reads the weights", "wanda", "on a GPU; use --device cpu"});
}

}  // namespace
}  // namespace swiftprune
