// Experts taken out of the tiny models of every family that has them: scores against plain PyTorch's (in the fixtures) and
// against what removal really changes, and the folder that is written.
#include "swiftprune/pipeline/drivers/remove_experts.h"

#include <cmath>
#include <filesystem>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/drivers/expert_shop.h"
#include "swiftprune/pipeline/expert_checkpoint.h"
#include "swiftprune/pipeline/root_mean_square.h"

namespace swiftprune {
namespace {

using test::Expected;
using test::kExpertModels;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Keeps what it is given.
struct Collected final : ReducedExpertsOutput {
  void write_down(std::int64_t layer, std::int64_t, ConstMatrixView) override { ++downs[layer]; }
  void keep(std::int64_t layer, std::span<const std::int64_t> members, const std::vector<bool>&) override {
    kept[layer].assign(members.begin(), members.end());
  }
  std::map<std::int64_t, int> downs;
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

// What the layer's experts add up to, with these of them, in doubles.
std::vector<std::vector<double>> outputs(const Backend& backend, const Experts& experts,
                                         const std::vector<std::int64_t>& members, ConstMatrixView x) {
  const Router router = experts.router().with(members);
  const Routing routing = router.route(router.scores(backend, x).view());
  std::vector<std::vector<double>> y(at(x.rows), std::vector<double>(at(x.cols), 0.0));
  for (std::size_t j = 0; j < members.size(); ++j) {
    experts.use(backend, members[j], [&](const Expert& expert) {
      const Matrix f = expert.project(backend, expert.inner(backend, x).view());
      for (std::int64_t t = 0; t < x.rows; ++t) {
        for (std::size_t i = 0; i < at(routing.top_k); ++i) {
          if (at(routing.experts_of(t)[i]) != j) continue;
          for (std::int64_t c = 0; c < x.cols; ++c)
            y[at(t)][at(c)] += double{routing.gates_of(t)[i]} * double{f.at(t, c)};
        }
      }
    });
  }
  return y;
}

// The experts' inputs of the first layer that has them, and the tokens' weights.
class FirstLayer {
 public:
  FirstLayer(const Model& model, const Backend& backend, const TokenWindows& windows)
      : hidden_(model.embed_windows(windows, 0, windows.num_windows())) {
    const std::vector<RopeTable> ropes = model.rope_tables(windows.seqlen);
    BlockForwardOptions options;
    options.sequence_length = windows.seqlen;
    Matrix inputs;
    const InputObserver observer = [&](LinearInput input, ConstMatrixView seen) {
      if (input == LinearInput::kMlp) x = copy_of(seen);
    };
    options.observer = &observer;
    for (std::int64_t layer = 0; block == nullptr || block->experts() == nullptr; ++layer) {
      block = std::make_unique<DecoderBlock>(model.load_block(layer));
      block->pack(backend, ComputeType::kF32);
      block->forward(backend, ropes, hidden_.view(), options);
    }
    for (std::int64_t t = 0; t < hidden_.rows(); ++t) {
      const double size = root_mean_square(hidden_.view().row_span(t));
      weights.push_back(1.0 / (size * size));
    }
  }

  std::unique_ptr<DecoderBlock> block;
  Matrix x;
  std::vector<double> weights;

 private:
  Matrix hidden_;
};

double change(const std::vector<std::vector<double>>& a, const std::vector<std::vector<double>>& b,
              const std::vector<double>& weights) {
  double sum = 0.0;
  for (std::size_t t = 0; t < a.size(); ++t) {
    for (std::size_t c = 0; c < a[t].size(); ++c) sum += weights[t] * std::pow(a[t][c] - b[t][c], 2);
  }
  return sum;
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

// The folder holds what the run computed: its first layer changes the dense layer's output by what was reported.
void expect_reported_change(const Model& dense, const Model& reduced, const ReducedLayer& layer,
                            const Backend& backend, const TokenWindows& windows) {
  const FirstLayer first(dense, backend, windows), second(reduced, backend, windows);
  const auto members = [](const Experts& experts) {
    std::vector<std::int64_t> all(at(experts.count()));
    std::iota(all.begin(), all.end(), 0);
    return all;
  };
  const Experts& a = *first.block->experts();
  const Experts& b = *second.block->experts();
  const auto y = outputs(backend, a, members(a), first.x.view());
  const auto z = outputs(backend, b, members(b), first.x.view());
  const std::vector<std::vector<double>> nothing(y.size(), std::vector<double>(y.front().size(), 0.0));
  const double expected = change(z, y, first.weights) / change(y, nothing, first.weights);
  EXPECT_NEAR(layer.change_refitted, expected, 2e-3 * (1e-2 + expected));
}

TEST_P(RemoveExperts, FolderHoldsWhatWasComputed) {
  for (const bool refit : {false, true}) {
    if (refit && !can_refit_experts(*model_)) continue;
    const test::TempDir dir;
    ExpertCheckpoint output(*model_, keep_, dir.path() / "out");
    RemoveExpertsOptions o = options("reap", refit);
    const RemoveExpertsResult result = run(o, output);
    output.finish({{"method", "shrink experts"}});
    const auto reduced = Model::open(dir.path() / "out");
    EXPECT_EQ(experts_of(*reduced).count, keep_);
    expect_reported_change(*model_, *reduced, result.layers.front(), *backend_, windows_);
    for (const ReducedLayer& layer : result.layers) {
      EXPECT_TRUE(std::isfinite(layer.change));
      if (refit) {
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

TEST_P(RemoveExperts, AnyNumberOfThreadsGivesTheSame) {
  Collected one, two;
  const RemoveExpertsResult a = run(options("ours", can_refit_experts(*model_)), one);
  set_num_threads(1);
  const RemoveExpertsResult b = run(options("ours", can_refit_experts(*model_)), two);
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
