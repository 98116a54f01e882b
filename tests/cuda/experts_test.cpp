// Experts on the GPU against the CPU: who is chosen, forwards, and their removal.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "cuda/gpu.h"
#include "model/family_fixture.h"
#include "support/forwards.h"
#include "support/gpu_models.h"
#include "support/temp_dir.h"
#include "swiftprune/core/index.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/cuda/capabilities.h"
#include "swiftprune/evaluation/perplexity.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/expert_checkpoint.h"

namespace swiftprune {
namespace {

using test::model_folder;
using test::TempDir;
using ::testing::TestWithParam;

// Named by what it has that others have not.
struct RouterCase {
  const char* name;
  RouterConfig config;
  bool bias = false, correction = false;
};

class CudaRouteTest : public test::GpuTest, public ::testing::WithParamInterface<RouterCase> {};

// A router that was never a file's.
class FreeRouter {
 public:
  FreeRouter(const RouterCase& of, std::int64_t experts, std::int64_t hidden) {
    CheckpointWriter writer(dir_.path() / "model", planned(of, experts, hidden));
    std::mt19937 engine(7);
    std::normal_distribution<float> normal;
    for (const PlannedTensor& tensor : planned(of, experts, hidden)) {
      std::vector<float> values(at(tensor.shape[0] * (tensor.shape.size() > 1 ? tensor.shape[1] : 1)));
      for (float& value : values) value = 0.3f * normal(engine);
      (tensor.name == "w" ? weight : tensor.name == "b" ? bias : correction) = values;
      writer.write_bytes(tensor.name, std::as_bytes(std::span(values)));
    }
    writer.write_file("config.json", "{}");
    writer.finish();
    checkpoint_ = std::make_unique<Checkpoint>(Checkpoint::open(dir_.path() / "model"));
    ExpertsConfig config;
    config.router = of.config;
    config.router.weight = "w";
    if (of.bias) config.router.bias = "b";
    if (of.correction) config.router.correction_bias = "c";
    config.count = experts;
    router.emplace(*checkpoint_, config, hidden);
  }
  std::optional<Router> router;
  std::vector<float> weight, bias, correction;

 private:
  static std::vector<PlannedTensor> planned(const RouterCase& of, std::int64_t experts, std::int64_t hidden) {
    const std::string file = "model.safetensors";
    std::vector<PlannedTensor> plan{{"w", DType::kF32, {experts, hidden}, file}};
    if (of.bias) plan.push_back({"b", DType::kF32, {experts}, file});
    if (of.correction) plan.push_back({"c", DType::kF32, {experts}, file});
    return plan;
  }
  TempDir dir_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_P(CudaRouteTest, ChoosesAndWeighsAsTheRouter) {
  const RouterCase& of = GetParam();
  constexpr std::int64_t kExperts = 48, kHidden = 40, kTokens = 333;
  const FreeRouter free(of, kExperts, kHidden);
  const auto backend = make_cpu_backend();
  const Matrix x = testing::random_matrix(kTokens, kHidden, 3);
  const Routing expected = free.router->route(free.router->scores(*backend, x.view()).view());

  Matrix logits(kTokens, kExperts);
  backend->matmul_transposed(x.view(), free.router->weight(), 1.0f, 0.0f, logits.view());
  const auto pairs = kTokens * of.config.top_k;
  const cuda::DeviceBuffer on_device = upload_as(logits, DType::kF32);
  const cuda::DeviceBuffer bias = upload(std::span<const float>(free.bias)),
                           correction = upload(std::span<const float>(free.correction));
  const cuda::DeviceBuffer chosen = poisoned(pairs * 4), gates = poisoned(pairs * 4);
  cuda::RouteArgs args;
  args.logits = on_device.as<float>();
  args.bias = of.bias ? bias.as<float>() : nullptr;
  args.correction = of.correction ? correction.as<float>() : nullptr;
  args.rows = kTokens;
  args.num_experts = kExperts;
  args.sigmoid = of.config.score == RouterScore::kSigmoid;
  args.top_k = static_cast<int>(of.config.top_k);
  args.num_groups = static_cast<int>(of.config.num_groups);
  args.top_groups = static_cast<int>(of.config.top_groups);
  args.best_two = of.config.group_score == GroupScore::kBestTwo;
  args.renormalised = of.config.renormalised;
  args.scale = of.config.scale;
  args.chosen = chosen.as<std::int32_t>();
  args.gates = gates.as<float>();
  cuda::route(args, *stream_);
  EXPECT_EQ(download<std::int32_t>(chosen), expected.experts);
  const std::vector<float> found = download<float>(gates);
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected.gates[i], 1e-5f) << i;
}

RouterConfig router_config(RouterScore score, std::int64_t top_k, bool renormalised) {
  RouterConfig config;
  config.score = score;
  config.top_k = top_k;
  config.renormalised = renormalised;
  return config;
}

std::vector<RouterCase> router_cases() {
  RouterConfig groups = router_config(RouterScore::kSigmoid, 6, true);
  groups.num_groups = 8;
  groups.top_groups = 3;
  groups.scale = 2.5f;
  RouterConfig best = router_config(RouterScore::kSoftmax, 5, false);
  best.num_groups = 6;
  best.top_groups = 2;
  best.group_score = GroupScore::kBest;
  return {{"softmax", router_config(RouterScore::kSoftmax, 4, false)},
          {"renormalised", router_config(RouterScore::kSoftmax, 8, true)},
          {"one", router_config(RouterScore::kSoftmax, 1, false)},
          {"all", router_config(RouterScore::kSoftmax, 48, true)},
          {"biased", router_config(RouterScore::kSoftmax, 4, true), true},
          {"sigmoid", router_config(RouterScore::kSigmoid, 4, true), false, true},
          {"groups", groups, false, true},
          {"groups_by_their_best", best}};
}

INSTANTIATE_TEST_SUITE_P(Routers, CudaRouteTest, ::testing::ValuesIn(router_cases()),
                         [](const auto& of) { return of.param.name; });

// Numbers that are none are nobody's; the chosen stay experts.
using CudaRouteKernelTest = test::GpuTest;
TEST_F(CudaRouteKernelTest, ChoosesExpertsOfNumbersThatAreNone) {
  const Matrix logits = [] {
    Matrix m(2, 8);
    for (float& value : m.values()) value = std::nanf("");
    return m;
  }();
  const cuda::DeviceBuffer on_device = upload_as(logits, DType::kF32);
  const cuda::DeviceBuffer chosen = poisoned(2 * 3 * 4), gates = poisoned(2 * 3 * 4);
  cuda::RouteArgs args;
  args.logits = on_device.as<float>();
  args.rows = 2;
  args.num_experts = 8;
  args.top_k = 3;
  args.chosen = chosen.as<std::int32_t>();
  args.gates = gates.as<float>();
  cuda::route(args, *stream_);
  for (const std::int32_t e : download<std::int32_t>(chosen)) {
    EXPECT_GE(e, 0);
    EXPECT_LT(e, 8);
  }
}

TEST(CudaExperts, FamiliesWithThem) {
  const std::vector<std::string> names = test::gpu_expert_model_names();
  for (const char* name : {"glm4_moe", "gpt_oss", "gpt_oss_mxfp4", "mixtral", "olmoe", "qwen2_moe",
                           "qwen3_moe", "qwen3_moe_fused"}) {
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
  }
}

class CudaExpertsTest : public TestWithParam<std::string> {
 protected:
  void SetUp() override { test::have_gpu(); }

  RemoveExpertsOptions options(const char* scorer) const {
    RemoveExpertsOptions o;
    const ExpertsConfig& experts = *experts_of(model_->config());
    std::int64_t keep = experts.count - 1;
    while (router_problem(experts.router, keep)) --keep;
    o.keep = keep;
    o.scorer = &expert_scorer(scorer);
    o.refit = can_refit_experts(*model_);
    o.bias = experts.bias;
    return o;
  }

  RemoveExpertsResult remove(bool on_gpu, const RemoveExpertsOptions& o, const std::string& name) {
    ExpertCheckpoint output(*model_, o.keep, dir_.path() / name);
    const ExpertShopMaker shop = on_gpu ? cuda::expert_shop({}) : cpu_expert_shop(*cpu_);
    RemoveExpertsResult result = remove_experts(shop, *model_, windows_, o, output);
    output.finish({{"method", "shrink experts"}});
    return result;
  }

  double perplexity_of(const Model& model, bool on_gpu) const {
    const std::vector<ScoredWindows> all = {
        {windows_, std::vector<std::int64_t>(at(windows_.num_windows()), 1)}};
    if (!on_gpu) return test::perplexity_of(model, *cpu_, all).perplexity;
    const Model* models[] = {&model};
    const auto forwards = cuda::make_text_forwards(models, ComputeType::kF32, {});
    return perplexity(model, *forwards, all, {}).perplexity;
  }

  TempDir dir_;
  std::unique_ptr<Model> model_ = Model::open(model_folder(GetParam()));
  std::unique_ptr<Backend> cpu_ = make_cpu_backend();
  TokenWindows windows_ = test::Expected(GetParam()).windows();
};

TEST_P(CudaExpertsTest, PerplexityAgreesWithTheCpu) {
  const double expected = perplexity_of(*model_, false);
  EXPECT_NEAR(perplexity_of(*model_, true), expected, 1e-4 * expected);
}

TEST_P(CudaExpertsTest, RemovalAgreesWithTheCpu) {
  for (const char* scorer : {"ours", "reap", "frequency"}) {
    const RemoveExpertsOptions o = options(scorer);
    const RemoveExpertsResult expected = remove(false, o, std::string("cpu_") + scorer);
    const RemoveExpertsResult found = remove(true, o, std::string("gpu_") + scorer);
    ASSERT_EQ(found.layers.size(), expected.layers.size());
    for (std::size_t l = 0; l < found.layers.size(); ++l) {
      const ReducedLayer &a = expected.layers[l], &b = found.layers[l];
      EXPECT_EQ(b.kept, a.kept) << scorer << ", layer " << l;
      EXPECT_EQ(b.super, a.super);
      EXPECT_EQ(b.never, a.never);
      EXPECT_EQ(b.not_refitted, a.not_refitted);
      EXPECT_EQ(b.evidence.tokens, a.evidence.tokens);
      const auto expect_near = [&](const std::vector<double>& y, const std::vector<double>& x,
                                   const char* what) {
        ASSERT_EQ(y.size(), x.size());
        double most = 0.0;
        for (const double value : x) most = std::max(most, std::abs(value));
        for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y[i], x[i], 1e-3 * most) << what << " " << i;
      };
      expect_near(b.evidence.norms, a.evidence.norms, "norms");
      expect_near(b.evidence.share_norms, a.evidence.share_norms, "share norms");
      expect_near(b.evidence.largest, a.evidence.largest, "largest");
      expect_near(b.evidence.changes, a.evidence.changes, "changes");
      EXPECT_NEAR(b.evidence.largest_residual, a.evidence.largest_residual,
                  1e-4 * a.evidence.largest_residual);
      EXPECT_NEAR(b.change, a.change, 1e-3 * a.change);
      EXPECT_NEAR(b.change_refitted, a.change_refitted, 2e-3 * a.change);
    }
    const double of_cpu = perplexity_of(*Model::open(dir_.path() / (std::string("cpu_") + scorer)), false);
    EXPECT_NEAR(perplexity_of(*Model::open(dir_.path() / (std::string("gpu_") + scorer)), false), of_cpu,
                1e-3 * of_cpu);
  }
}

TEST_P(CudaExpertsTest, RemovalRepeatsItsBits) {
  const RemoveExpertsOptions o = options("ours");
  for (const char* name : {"once", "twice"}) remove(true, o, name);
  const auto once = Model::open(dir_.path() / "once"), twice = Model::open(dir_.path() / "twice");
  for (const TensorInfo& tensor : once->checkpoint().tensors()) {
    EXPECT_TRUE(std::ranges::equal(once->checkpoint().bytes(tensor),
                                   twice->checkpoint().bytes(twice->checkpoint().at(tensor.name))))
        << tensor.name;
  }
}

// Stopped before the last layer, then gone on with.
TEST_P(CudaExpertsTest, RemovalGoesOnWithItsBits) {
  RemoveExpertsOptions o = options("ours");
  const RemoveExpertsResult whole = remove(true, o, "whole");
  if (whole.layers.size() < 2) GTEST_SKIP() << "one layer with experts";
  const auto begin = [&] {
    return std::make_unique<ExpertCheckpoint>(*model_, o.keep, dir_.path() / "again", Leftover::kContinue);
  };
  {
    const auto output = begin();
    output->start_journal({});
    RemoveExpertsOptions stopped = o;
    stopped.progress = [](std::string_view, std::int64_t done, std::int64_t total) {
      if (done + 1 == total) throw Interrupted();
    };
    EXPECT_THROW(remove_experts(cuda::expert_shop({}), *model_, windows_, stopped, *output), Interrupted);
    output->keep_finished();
  }
  const auto output = begin();
  auto unfinished = output->unfinished();
  ASSERT_TRUE(unfinished);
  o.finished = std::move(unfinished->layers);
  ASSERT_EQ(o.finished.size() + 1, whole.layers.size());
  output->start_journal({}, o.finished);
  remove_experts(cuda::expert_shop({}), *model_, windows_, o, *output);
  output->finish({});
  EXPECT_TRUE(test::read_text(dir_.path() / "again" / "model.safetensors") ==
              test::read_text(dir_.path() / "whole" / "model.safetensors"));
}

INSTANTIATE_TEST_SUITE_P(Families, CudaExpertsTest, ::testing::ValuesIn(test::gpu_expert_model_names()),
                         [](const auto& family) { return family.param; });

}  // namespace
}  // namespace swiftprune
