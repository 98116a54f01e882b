// Experts taken out of the tiny models of every family that has them: scores against plain PyTorch's (in the fixtures) and
// against what removal really changes, and the folder that is written.
#include "swiftprune/pipeline/drivers/remove_experts.h"
#include "swiftprune/core/index.h"

#include <cmath>
#include <filesystem>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "pipeline/first_expert_layer.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/model/model_features.h"
#include "swiftprune/pipeline/choices/expert_counts.h"
#include "swiftprune/pipeline/drivers/expert_shop.h"
#include "swiftprune/pipeline/expert_checkpoint.h"
#include "swiftprune/pipeline/root_mean_square.h"

namespace swiftprune {
namespace {

using test::change;
using test::expect_reported_change;
using test::Expected;
using test::FirstLayer;
using test::kExpertModels;
using test::outputs;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Keeps what it is given.
struct Collected final : ReducedExpertsOutput {
  void write_down(std::int64_t layer, std::int64_t, ConstMatrixView) override { ++downs[layer]; }
  void write_bias(std::int64_t layer, std::int64_t, std::span<const float>) override { ++biases[layer]; }
  void keep(const ReducedLayer& layer) override { kept[layer.evidence.layer] = layer.kept; }
  void finish_layer(const ReducedLayer&) override {}
  Matrix read_down(std::int64_t, std::int64_t) override { throw std::logic_error("no layer is finished"); }
  std::vector<float> read_bias(std::int64_t, std::int64_t) override {
    throw std::logic_error("no layer is finished");
  }
  std::map<std::int64_t, int> downs, biases;
  std::map<std::int64_t, std::vector<std::int64_t>> kept;
};

const ExpertsConfig& experts_of(const Model& model) { return *swiftprune::experts_of(model.config()); }

// As few as the router allows.
std::int64_t fewest(const Model& model) {
  const ExpertsConfig& experts = experts_of(model);
  for (std::int64_t keep = 1; keep < experts.count; ++keep) {
    if (!router_problem(experts.router, keep)) return keep;
  }
  throw std::logic_error("a number of experts that the router allows");
}

class RemoveExperts : public ::testing::TestWithParam<std::string> {
 protected:
  RemoveExpertsOptions options(const char* scorer, bool refit) const {
    RemoveExpertsOptions result;
    result.keep = keep_;
    result.scorer = &expert_scorer(scorer);
    result.refit = refit;
    return result;
  }
  // With whatever the experts can hold.
  RemoveExpertsOptions compensated(const char* scorer) const {
    RemoveExpertsOptions result = options(scorer, can_refit_experts(*model_));
    result.bias = experts_of(*model_).bias;
    return result;
  }
  RemoveExpertsResult run(const RemoveExpertsOptions& o, ReducedExpertsOutput& output) const {
    return remove_experts(cpu_expert_shop(*backend_), *model_, windows_, o, output);
  }

  Expected expected_{GetParam()};
  TokenWindows windows_ = expected_.windows();
  std::unique_ptr<Model> model_ = Model::open(kExpertModels / GetParam());
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  std::int64_t keep_ = fewest(*model_);
};

// The first layer with experts sees the dense model's hidden states.
TEST_P(RemoveExperts, ScoresArePyTorchs) {
  Collected output;
  for (const auto& [scorer, name] : {std::pair{"reap", "reap"}, std::pair{"frequency", "tokens"},
                                     std::pair{"ean", "ean"}, std::pair{"router-weight", "router_weight"}}) {
    const RemoveExpertsOptions o = options(scorer, false);
    const ExpertEvidence evidence = run(o, output).layers.front().evidence;
    const Matrix expected = expected_.matrix(fmt::format("{}.{}", name, evidence.layer));
    const std::vector<double> scores = o.scorer->score(evidence, 0);
    ASSERT_EQ(std::ssize(scores), expected.numel());
    for (std::int64_t j = 0; j < expected.numel(); ++j) {
      EXPECT_NEAR(scores[at(j)], double{expected.at(0, j)}, 1e-4 * (1.0 + double{expected.at(0, j)}))
          << scorer << " of " << j;
    }
    // The lowest are gone.
    const std::vector<std::int64_t>& kept = output.kept[evidence.layer];
    ASSERT_EQ(std::ssize(kept), keep_);
    if (experts_of(*model_).router.num_groups > 1) continue;
    double lowest = scores[at(kept.front())];
    for (const std::int64_t j : kept) lowest = std::min(lowest, scores[at(j)]);
    for (std::int64_t j = 0; j < expected.numel(); ++j) {
      if (std::find(kept.begin(), kept.end(), j) == kept.end()) {
        EXPECT_LE(scores[at(j)], lowest);
      }
    }
  }
}

TEST_P(RemoveExperts, OursIsWhatRemovalReallyChanges) {
  if (experts_of(*model_).router.num_groups > 1)
    GTEST_SKIP() << "a router over groups has no groups of fewer";
  Collected output;
  const ExpertEvidence evidence = run(options("ours", false), output).layers.front().evidence;
  const FirstLayer first(*model_, *backend_, windows_);
  const Experts& experts = *first.block->experts();
  std::vector<std::int64_t> all(at(experts.count()));
  std::iota(all.begin(), all.end(), 0);
  const auto dense = outputs(*backend_, experts, all, first.x.view());
  for (std::int64_t j = 0; j < experts.count(); ++j) {
    std::vector<std::int64_t> others = all;
    others.erase(others.begin() + j);
    const double expected = change(outputs(*backend_, experts, others, first.x.view()), dense, first.weights);
    EXPECT_NEAR(evidence.changes[at(j)], expected, 1e-4 * (1.0 + expected)) << j;
  }
}

TEST_P(RemoveExperts, FolderHoldsWhatWasComputed) {
  std::vector<RemoveExpertsOptions> all = {options("reap", false), compensated("reap")};
  if (experts_of(*model_).bias) {
    all.push_back(options("reap", false));
    all.back().bias = true;
  }
  for (const RemoveExpertsOptions& o : all) {
    const test::TempDir dir;
    ExpertCheckpoint output(*model_, keep_, dir.path() / "out");
    const RemoveExpertsResult result = run(o, output);
    output.finish({{"method", "shrink experts"}});
    const auto reduced = Model::open(dir.path() / "out");
    EXPECT_EQ(experts_of(*reduced).count, keep_);
    expect_reported_change(*model_, *reduced, result.layers.front().change_refitted, *backend_, windows_);
    for (const ReducedLayer& layer : result.layers) {
      EXPECT_TRUE(std::isfinite(layer.change));
      if (o.refit || o.bias) {
        EXPECT_LT(layer.change_refitted, layer.change + 1e-9);
      }
    }
    // Form and dtypes as they came in.
    const auto& block = reduced->config().blocks[at(result.layers.front().evidence.layer)];
    const auto& dense = model_->config().blocks[at(result.layers.front().evidence.layer)];
    const ExpertTensors a(model_->checkpoint(), *dense.experts, model_->config().hidden_size);
    const ExpertTensors b(reduced->checkpoint(), *block.experts, reduced->config().hidden_size);
    EXPECT_EQ(a.form(), b.form());
    EXPECT_EQ(a.dtype(0, ExpertPart::kUp), b.dtype(0, ExpertPart::kUp));
    for (std::size_t i = 0; i < result.layers.front().kept.size(); ++i) {
      const BlockLinear old = a.load(result.layers.front().kept[i], ExpertPart::kUp, WeightUse::kFloat);
      const BlockLinear now = b.load(static_cast<std::int64_t>(i), ExpertPart::kUp, WeightUse::kFloat);
      EXPECT_EQ(test::max_difference(old.weight.view(), now.weight.view()), 0.0);
      EXPECT_EQ(old.bias, now.bias);
    }
  }
}

// The dense model alone is looked at, so the first layer shows what it shows where experts go.
TEST_P(RemoveExperts, ObservationsAreOfTheDenseModel) {
  const RemoveExpertsOptions o = options("ours", false);
  const std::vector<ExpertEvidence> seen = observe_experts(cpu_expert_shop(*backend_), *model_, windows_, o);
  Collected output;
  const RemoveExpertsResult result = run(o, output);
  ASSERT_EQ(seen.size(), result.layers.size());
  for (std::size_t i = 0; i < seen.size(); ++i) {
    const ExpertEvidence& reduced = result.layers[i].evidence;
    EXPECT_EQ(seen[i].layer, reduced.layer);
    EXPECT_EQ(std::ssize(seen[i].changes), reduced.num_experts());
    EXPECT_GT(seen[i].mean_residual, 0.0);
    if (i > 0) continue;
    EXPECT_EQ(seen[i].tokens, reduced.tokens);
    EXPECT_EQ(seen[i].share_norms, reduced.share_norms);
    for (std::size_t j = 0; j < reduced.changes.size(); ++j)
      EXPECT_NEAR(seen[i].changes[j], reduced.changes[j], 1e-9 * (1.0 + std::abs(reduced.changes[j])));
  }
}

// Every other layer keeps all, the rest as few as the router allows.
TEST_P(RemoveExperts, LayersMayKeepDifferentNumbers) {
  std::vector<std::int64_t> counts, dense;
  for (const BlockConfig& block : model_->config().blocks) {
    if (!block.experts) continue;
    dense.push_back(block.experts->count);
    counts.push_back(counts.size() % 2 == 0 ? keep_ : dense.back());
  }
  if (counts.size() < 2) GTEST_SKIP() << "one layer with experts";
  const test::TempDir dir;
  RemoveExpertsOptions o = compensated("ours");
  o.keep = ExpertCounts(counts);
  RemoveExpertsResult result;
  {
    ExpertCheckpoint output(*model_, o.keep, dir.path() / "out", Leftover::kContinue);
    output.start_journal({{"plan", counts}});
    EXPECT_EQ(ExpertCheckpoint::unfinished_identity(dir.path() / "out"),
              (nlohmann::ordered_json{{"plan", counts}}));
    result = run(o, output);
    output.finish({{"method", "shrink experts"}});
  }
  EXPECT_FALSE(ExpertCheckpoint::unfinished_identity(dir.path() / "out"));
  const auto reduced = Model::open(dir.path() / "out");
  std::size_t place = 0;
  for (const BlockConfig& block : reduced->config().blocks) {
    if (!block.experts) continue;
    EXPECT_EQ(block.experts->count, counts[place]);
    EXPECT_EQ(std::ssize(result.layers[place].kept), counts[place]);
    ++place;
  }
  EXPECT_TRUE(reduced->config().has_layer_sizes);
  EXPECT_TRUE(features_of(reduced->config()).contains(ModelFeature::kExpertCounts));
  expect_reported_change(*model_, *reduced, result.layers.front().change_refitted, *backend_, windows_);
  EXPECT_EQ(result.layers[1].change, 0.0);  // all of them stayed
  test::expect_error(ErrorKind::kBadInput, [&] { check_reducible(*reduced); },
                     {"swiftprune_layer_sizes", "again"});
  // Weights of every expert that is left are pruned as those of any other model.
  PlanDefaults defaults;
  defaults.score = parse_score("wanda");
  const Plan plan = uniform_plan(*reduced, defaults, {});
  std::int64_t experts = 0;
  for (const PlanEntry& entry : plan.entries) experts = std::max(experts, entry.expert + 1);
  EXPECT_EQ(experts, *std::ranges::max_element(counts));
}

// Stopped before the last layer, then gone on with: the bytes of a run that was not.
TEST_P(RemoveExperts, GoesOnBehindFinishedLayers) {
  const test::TempDir dir;
  RemoveExpertsOptions o = compensated("ours");
  ExpertCheckpoint whole(*model_, keep_, dir.path() / "whole");
  const RemoveExpertsResult expected = run(o, whole);
  whole.finish({});
  if (expected.layers.size() < 2) GTEST_SKIP() << "one layer with experts";
  const auto begin = [&] {
    return std::make_unique<ExpertCheckpoint>(*model_, keep_, dir.path() / "again", Leftover::kContinue);
  };
  const nlohmann::ordered_json identity = {{"plan", keep_}};
  {
    const auto output = begin();
    EXPECT_FALSE(output->unfinished());
    output->start_journal(identity);
    RemoveExpertsOptions stopped = o;
    stopped.progress = [](std::string_view, std::int64_t done, std::int64_t total) {
      if (done + 1 == total) throw Interrupted();
    };
    EXPECT_THROW(run(stopped, *output), Interrupted);
    EXPECT_EQ(output->keep_finished(), std::ssize(expected.layers) - 1);
  }
  const auto output = begin();
  auto unfinished = output->unfinished();
  ASSERT_TRUE(unfinished);
  EXPECT_EQ(unfinished->identity, identity);
  ASSERT_EQ(unfinished->layers.size() + 1, expected.layers.size());
  o.finished = std::move(unfinished->layers);
  output->start_journal(identity, o.finished);
  const RemoveExpertsResult result = run(o, *output);
  output->finish({});
  EXPECT_EQ(result.layers.back().change_refitted, expected.layers.back().change_refitted);
  EXPECT_EQ(result.layers.front().evidence.tokens, expected.layers.front().evidence.tokens);
  EXPECT_TRUE(test::read_text(dir.path() / "again" / "model.safetensors") ==
              test::read_text(dir.path() / "whole" / "model.safetensors"));
}

// A journal of other layers, or of other numbers of experts, is no start.
TEST_P(RemoveExperts, OddJournalsAreNotGoneOnWith) {
  const test::TempDir dir;
  const auto begin = [&](std::int64_t keep) {
    return std::make_unique<ExpertCheckpoint>(*model_, keep, dir.path() / "out", Leftover::kContinue);
  };
  begin(keep_)->start_journal({{"plan", keep_}});
  const std::filesystem::path file = dir.path() / ".out.partial" / JournalLines::kFileName;
  for (const char* line : {"{\"layer\": 99}", "{\"layer\": \"x\"}", "[1, 2]", "{\"layer\":"}) {
    const std::string text = fmt::format("{{\"plan\":{}}}\n{}\n", keep_, line);
    test::write_text(file, text);
    const auto unfinished = begin(keep_)->unfinished();
    ASSERT_TRUE(unfinished) << line;
    EXPECT_THAT(unfinished->layers, IsEmpty()) << line;
  }
}

TEST_P(RemoveExperts, AnyNumberOfThreadsGivesTheSame) {
  Collected one, two;
  const RemoveExpertsResult a = run(compensated("ours"), one);
  set_num_threads(1);
  const RemoveExpertsResult b = run(compensated("ours"), two);
  set_num_threads(0);
  EXPECT_EQ(one.kept, two.kept);
  EXPECT_EQ(a.layers.back().change_refitted, b.layers.back().change_refitted);
}

INSTANTIATE_TEST_SUITE_P(Families, RemoveExperts, ::testing::ValuesIn(test::expert_model_names()),
                         [](const auto& test) { return test.param; });

TEST(ExpertScores, ByHand) {
  ExpertEvidence e;
  e.tokens = {4, 0, 2, 2};
  e.shares = {2.0, 0.0, 1.0, 0.5};
  e.norms = {8.0, 0.0, 6.0, 10.0};
  e.share_norms = {4.0, 0.0, 3.0, 1.0};
  EXPECT_THAT(expert_scorer("reap").score(e, 0), ElementsAre(1.0, 0.0, 1.5, 0.5));
  EXPECT_THAT(expert_scorer("frequency").score(e, 0), ElementsAre(4.0, 0.0, 2.0, 2.0));
  EXPECT_NEAR(e.routing_entropy(), (0.5 * std::log(2.0) + 0.5 * std::log(4.0)) / std::log(4.0), 1e-12);
  EXPECT_NE(expert_scorer("random").score(e, 1), expert_scorer("random").score(e, 2));
  EXPECT_EQ(expert_scorer("random").score(e, 1), expert_scorer("random").score(e, 1));
  test::expect_error(ErrorKind::kUsage, [] { expert_scorer("wanda"); }, {"--score", "wanda", "reap"});
}

// One threshold: of the experts of two layers the lowest go, wherever they are.
TEST(ExpertScores, OneThresholdOverLayers) {
  const auto mixtral = Model::open(kExpertModels / "mixtral");  // 2 of 5
  const ModelConfig& model = mixtral->config();
  std::vector<ExpertEvidence> evidence(2);
  for (std::size_t i = 0; i < 2; ++i) {
    evidence[i].layer = static_cast<std::int64_t>(i);
    evidence[i].tokens = {10, 10, 10, 10, 10};
    evidence[i].largest = {1.0, 1.0, 1.0, 1.0, 1.0};
    evidence[i].largest_residual = 10.0;
    evidence[i].mean_residual = i == 0 ? 1.0 : 100.0;
  }
  evidence[0].share_norms = {1.0, 2.0, 3.0, 4.0, 5.0};
  evidence[1].share_norms = {50.0, 60.0, 150.0, 160.0,
                             1000.0};  // of hidden states that are 100 times as large
  ExpertSpread spread{.mean_left = 3.5, .flag = "--ratio", .scorer = &expert_scorer("reap")};
  EXPECT_THAT(spread_experts(model, evidence, spread), ElementsAre(4, 3));  // 0.05, 0.06 and 0.1
  spread.mean_left = 3.0;
  EXPECT_THAT(spread_experts(model, evidence, spread), ElementsAre(4, 2));
  spread.mean_left = 2.0;
  EXPECT_THAT(spread_experts(model, evidence, spread), ElementsAre(2, 2));
  // Super experts stay, though their scores are the lowest.
  evidence[1].largest = {100.0, 100.0, 1.0, 1.0, 1.0};
  spread.mean_left = 3.0;
  EXPECT_EQ(super_experts(evidence[1]).size(), 2u);
  EXPECT_THAT(spread_experts(model, evidence, spread), ElementsAre(3, 3));
  spread.keep_super = false;
  EXPECT_THAT(spread_experts(model, evidence, spread), ElementsAre(4, 2));
  spread.mean_left = 1.5;
  test::expect_error(ErrorKind::kUsage, [&] { spread_experts(model, evidence, spread); },
                     {"--ratio", "leaves 1.5 of 5", "at least 2"});
  spread.mean_left = 4.9;
  test::expect_error(ErrorKind::kUsage, [&] { spread_experts(model, evidence, spread); }, {"removes some"});
  // Scores that hold no outputs are comparable as they are.
  EXPECT_THAT(comparable_scores(expert_scorer("frequency"), evidence[1], 0), ElementsAre(10, 10, 10, 10, 10));
  EXPECT_DOUBLE_EQ(comparable_scores(expert_scorer("reap"), evidence[1], 0)[4], 1.0);
  // As many of each group of a router with groups.
  const auto grouped = Model::open(kExpertModels / "deepseek_v2");  // 3 of 9 in 2 of 3 groups
  ExpertEvidence of_groups;
  while (!grouped->config().blocks[at(of_groups.layer)].experts) ++of_groups.layer;
  of_groups.tokens.assign(9, 4);
  of_groups.largest.assign(9, 1.0);
  of_groups.largest_residual = 10.0;
  spread = {.mean_left = 6.0, .flag = "--experts", .scorer = &expert_scorer("frequency")};
  EXPECT_THAT(spread_experts(grouped->config(), {&of_groups, 1}, spread), ElementsAre(6));
}

TEST(ExpertScores, TheHighestStay) {
  const double scores[] = {0.5, 0.1, 0.9, 0.5, 0.2, 0.3};
  EXPECT_THAT(best_experts(scores, 3, 1, {}), ElementsAre(0, 2, 3));
  EXPECT_THAT(best_experts(scores, 3, 1, std::vector<std::int64_t>{1}), ElementsAre(0, 1, 2));
  EXPECT_THAT(best_experts(scores, 4, 2, {}), ElementsAre(0, 2, 3, 5));  // two of each half
}

TEST(ExpertScores, SuperExperts) {
  ExpertEvidence e;
  e.tokens = {5, 5, 5, 5, 0};
  e.largest = {1.0, 2.0, 400.0, 1.5, 0.0};
  e.largest_residual = 500.0;
  EXPECT_THAT(super_experts(e), ElementsAre(2));
  e.largest_residual = 5000.0;  // something else is as large
  EXPECT_THAT(super_experts(e), IsEmpty());
  e.largest_residual = 500.0;
  e.largest[2] = 15.0;  // large, but not beside the others
  EXPECT_THAT(super_experts(e), IsEmpty());
}

TEST(RemoveExpertsErrors, RequestsThatLeaveTooFew) {
  const auto mixtral = Model::open(kExpertModels / "mixtral");  // 2 of 5
  EXPECT_EQ(experts_for_ratio(mixtral->config(), 0.4), 3);
  const auto refused = [](const Model& model, std::int64_t keep, std::initializer_list<std::string> texts) {
    test::expect_error(
        ErrorKind::kUsage, [&] { check_experts_left(model.config(), keep, "--ratio"); }, texts);
  };
  refused(*mixtral, 1, {"--ratio", "leaves 1 of 5", "2 experts a token"});
  refused(*mixtral, 5, {"leaves 5 of 5", "removes some"});
  const auto groups = Model::open(kExpertModels / "deepseek_v2");  // 3 of 9 in 2 of 3 groups
  EXPECT_EQ(experts_for_ratio(groups->config(), 0.4), 6);
  refused(*groups, 8, {"3 groups", "divisor of the 8"});
  refused(*groups, 3, {"2 of 3 groups of 1", "3 experts a token"});
  const auto dense = Model::open(test::kModels / "llama2");
  test::expect_error(ErrorKind::kUsage, [&] { check_reducible(*dense); }, {"--units", "experts", "llama"});
  EXPECT_FALSE(can_refit_experts(*Model::open(kExpertModels / "gpt_oss_mxfp4")));
}

}  // namespace
}  // namespace swiftprune
