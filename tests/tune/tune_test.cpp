// Searches on the tiny model: budgets are kept, what was measured is what prune makes, runs repeat and go on.
#include "swiftprune/tune/tune.h"

#include <fstream>
#include <iterator>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "evaluation/pruned_copy.h"
#include "support/expect_error.h"
#include "support/random_windows.h"
#include "support/temp_dir.h"
#include "support/thread_ranks.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/evaluation/divergence.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/pipeline/checkpoint_output.h"
#include "swiftprune/pipeline/grid_output.h"
#include "swiftprune/sparse/packed_checkpoint.h"
#include "swiftprune/tune/decode_times.h"
#include "swiftprune/tune/level_choice.h"
#include "swiftprune/tune/parameter_trials.h"
#include "swiftprune/tune/tune_report.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::kTinyModel;
using test::TempDir;
using ::testing::HasSubstr;
using Kind = TuneBudget::Kind;

TEST(SplitForTuningTest, ThreePartsWithoutACommonToken) {
  TokenWindows windows{1024, std::vector<std::int32_t>(6 * 1024)};
  std::iota(windows.ids.begin(), windows.ids.end(), 0);
  const TuneText text = split_for_tuning(windows, 4, "t");
  EXPECT_EQ(text.calibration.num_windows(), 4);
  EXPECT_EQ(text.search.seqlen, kSearchTokens);
  EXPECT_EQ(text.search.num_windows(), 2);
  EXPECT_EQ(text.check.num_windows(), 2);
  std::set<std::int32_t> all(text.calibration.ids.begin(), text.calibration.ids.end());
  all.insert(text.search.ids.begin(), text.search.ids.end());
  all.insert(text.check.ids.begin(), text.check.ids.end());
  EXPECT_EQ(all.size(), windows.ids.size());
  // Of short windows whole ones.
  const TuneText few = split_for_tuning({64, std::vector<std::int32_t>(5 * 64)}, 3, "t");
  EXPECT_EQ(few.search.num_windows(), 1);
  EXPECT_EQ(few.check.num_windows(), 1);
}

TEST(SplitForTuningTest, TooLittleText) {
  const TokenWindows windows{64, std::vector<std::int32_t>(5 * 64)};
  expect_error(ErrorKind::kBadInput, [&] { split_for_tuning(windows, 4, "own.txt"); },
               {"own.txt", "found 5 windows of 64 tokens", "at least 6", "search and check"});
  expect_error(ErrorKind::kBadInput, [&] { split_for_tuning(windows, 8, "own.txt"); }, {"at least 10"});
}

class TuneTest : public ::testing::Test {
 protected:
  TuneTest() {
    text_ = split_for_tuning(test::random_windows(*model_, 20, 64), 8, "t");
    options_.method = &method_by_name("best");
    options_.folder = folder("levels");
    options_.identity = {{"run", 1}, {"a", "b"}};  // in no order of names
    options_.max_trials = 25;
    options_.group = 0;
  }
  fs::path folder(const std::string& name) {
    fs::create_directory(folder_.path() / name);
    return folder_.path() / name;
  }
  TunedPlan run(Kind kind, double value) {
    options_.budget = {kind, value};
    return tune(*model_, *device_, text_, options_);
  }
  void expect_refused(Kind kind, double value, std::initializer_list<std::string> texts) {
    expect_error(
        ErrorKind::kUsage, [&] { run(kind, value); }, texts);
  }
  double divergence(const Model& model, const TokenWindows& windows) {
    const Model* models[] = {model_.get(), &model};
    ScoredWindows part{windows,
                       std::vector<std::int64_t>(static_cast<std::size_t>(windows.num_windows()), 1)};
    return compare_models(models, *device_->text_forwards(models, {}), {&part, 1}, {})[1].divergence->mean_kl;
  }
  PruneOptions prune_options() const {
    PruneOptions options;
    options.select = options_.method->select;
    options.propagation = options_.method->propagation;
    return options;
  }
  // As `prune --plan` does.
  std::unique_ptr<Model> prune_by(const Plan& plan) {
    const fs::path to = folder_.path() / "pruned";
    fs::remove_all(to);
    CheckpointWriter writer(to, plan_like(model_->checkpoint()));
    CheckpointOutput output(model_->checkpoint(), writer);
    device_->prune(*model_, plan, text_.calibration, prune_options(), output);
    output.copy_rest();
    writer.copy_other_files(model_->checkpoint());
    writer.finish();
    return Model::open(to);
  }
  Plan read_back(const TunedPlan& found) {
    PlanDefaults defaults;
    defaults.score = options_.method->score;
    defaults.refine = options_.method->refine;
    Plan plan = uniform_plan(*model_, defaults, {});
    apply_plan(nlohmann::json(plan_document(found)), "plan.json", plan);
    return plan;
  }
  std::size_t num_trials() const {
    std::ifstream in(options_.folder / "trials.jsonl");
    return static_cast<std::size_t>(
        std::count(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>(), '\n'));
  }

  TempDir folder_;
  std::unique_ptr<Model> model_ = Model::open(kTinyModel);
  std::unique_ptr<Device> device_ = open_device("cpu");
  TuneText text_;
  TuneOptions options_;
};

TEST_F(TuneTest, SpreadsZerosBetterThanItsStart) {
  const TunedPlan found = run(Kind::kSparsity, 0.6);
  EXPECT_TRUE(found.keeps_budget);
  EXPECT_NEAR(found.plan.sparsity(), 0.6, 1e-9);
  EXPECT_NEAR(found.best.sparsity, 0.6, 0.02);
  EXPECT_LT(found.best.search_kl, found.start.search_kl);
  EXPECT_EQ(found.tuned, 14);
  EXPECT_GT(found.levels, 5u);
  ASSERT_TRUE(found.best.check_kl && found.start.check_kl);
  ASSERT_GE(found.line.size(), 3u);
  for (std::size_t i = 1; i < found.line.size(); ++i) {
    EXPECT_LT(found.line[i - 1].bytes, found.line[i].bytes);
    EXPECT_GT(found.line[i - 1].search_kl, found.line[i].search_kl);
  }
  // The start is what prune makes of today's allocation; nothing is estimated.
  Plan start = read_back(found);
  const auto kept = nlohmann::json::parse(std::ifstream(options_.folder / "levels.json"));
  apply_plan(kept["head"]["plan"], "levels.json", start);
  const auto pruned = prune_by(start);
  EXPECT_NEAR(found.start.search_kl, divergence(*pruned, text_.search), 1e-9);
  EXPECT_NEAR(*found.start.check_kl, divergence(*pruned, text_.check), 1e-9);
  // And the plan runs as it is.
  const auto tuned = prune_by(read_back(found));
  EXPECT_LT(divergence(*tuned, text_.search), found.start.search_kl);
  for (const auto& entry : fs::directory_iterator(options_.folder))
    EXPECT_THAT(entry.path().filename().string(), ::testing::Not(::testing::StartsWith("plan-")));
}

TEST_F(TuneTest, TheSameRunGoesOnWhereItWas) {
  const TunedPlan once = run(Kind::kSparsity, 0.5);
  const std::size_t trials = num_trials();
  const fs::file_time_type levels = fs::last_write_time(options_.folder / "levels.json");
  {
    std::ofstream cut(options_.folder / "trials.jsonl", std::ios::app);
    cut << R"({"levels":[0,)";
  }
  const TunedPlan again = run(Kind::kSparsity, 0.5);
  EXPECT_EQ(plan_document(once), plan_document(again));
  EXPECT_EQ(once.best.search_kl, again.best.search_kl);
  EXPECT_EQ(again.ended, "all trials");
  EXPECT_LE(num_trials(), trials + 4);  // plans of other sizes alone
  EXPECT_EQ(fs::last_write_time(options_.folder / "levels.json"), levels);
  // In a folder of its own the seed leads the same way, too.
  options_.folder = folder("other");
  EXPECT_EQ(plan_document(once), plan_document(run(Kind::kSparsity, 0.5)));
  options_.identity = {{"run", 2}};
  expect_refused(Kind::kSparsity, 0.5, {"--cache", "another run"});
}

TEST_F(TuneTest, RanksFindThePlanOfOneProcess) {
  for (const bool grids : {false, true}) {
    SCOPED_TRACE(grids);
    options_.bits = grids ? std::vector<int>{8, 4, 3} : std::vector<int>{};
    options_.folder = folder(fmt::format("one-{}", grids));
    const auto find = [&](const TuneOptions& options, Communicator& ranks) {
      const auto device = open_device("cpu");
      return tune(*model_, *device, text_, options, ranks);
    };
    options_.budget = grids ? TuneBudget{Kind::kBits, 9.0} : TuneBudget{Kind::kSparsity, 0.5};
    const TunedPlan one = find(options_, alone());
    TuneOptions shared = options_;
    shared.folder = folder(fmt::format("three-{}", grids));
    test::ThreadRanks(3).run([&](Communicator& ranks) {
      const TunedPlan found = find(shared, ranks);
      EXPECT_EQ(plan_document(found), plan_document(one));
      EXPECT_EQ(found.best.search_kl, one.best.search_kl);
      EXPECT_EQ(found.start.check_kl, one.start.check_kl);
      EXPECT_EQ(found.trials, one.trials);
      EXPECT_EQ(found.line.size(), one.line.size());
    });
    EXPECT_TRUE(fs::exists(shared.folder / "level-01-rank-2" / kSafetensorsFile));
    // Whoever solved them, they serve any number of ranks.
    EXPECT_EQ(plan_document(find(shared, alone())), plan_document(one));
    // One process's levels and measurements, continued by two.
    test::ThreadRanks(2).run(
        [&](Communicator& ranks) { EXPECT_EQ(plan_document(find(options_, ranks)), plan_document(one)); });
    for (const auto& entry : fs::directory_iterator(shared.folder))
      EXPECT_THAT(entry.path().filename().string(), ::testing::Not(::testing::StartsWith("plan-")));
  }
}

TEST_F(TuneTest, AFolderThatNotAllRanksSeeIsRefused) {
  options_.budget = {Kind::kSparsity, 0.5};
  expect_error(ErrorKind::kUsage,
               [&] {
                 test::ThreadRanks(2).run([&](Communicator& ranks) {
                   TuneOptions options = options_;
                   if (!ranks.is_first()) options.folder = folder_.path() / "elsewhere";
                   const auto device = open_device("cpu");
                   tune(*model_, *device, text_, options, ranks);
                 });
               },
               {"1 of 2 ranks", "--cache"});
}

TEST_F(TuneTest, DamagedLevelsAreRefused) {
  run(Kind::kSparsity, 0.5);
  const auto whole = nlohmann::ordered_json::parse(std::ifstream(options_.folder / "levels.json"));
  const auto refused = [&](const nlohmann::ordered_json& document, const char* text) {
    std::ofstream(options_.folder / "levels.json") << document;
    expect_error(ErrorKind::kBadInput, [&] { run(Kind::kSparsity, 0.5); }, {"levels.json", text});
  };
  auto damaged = whole;
  damaged["units"][0]["levels"][1]["error"] = -1;
  refused(damaged, "levels[1]");
  damaged = whole;
  damaged["units"][0]["levels"][1]["pattern"] = "9:4";
  refused(damaged, "a pattern such as 2:4");
  damaged = whole;
  damaged["units"][2]["name"] = "nowhere.weight";
  refused(damaged, "expected a linear of this model");
  damaged = whole;
  damaged["units"].erase(3);
  refused(damaged, "13 linears");
  damaged = whole;
  damaged["solvers"] = 2;
  refused(damaged, "level-");
  damaged = whole;
  damaged["units"][1]["levels"].push_back(damaged["units"][1]["levels"][0]);
  refused(damaged, "level-");
}

TEST_F(TuneTest, BitsOfZerosAlone) {
  const TunedPlan found = run(Kind::kBits, 12.0);
  EXPECT_TRUE(found.keeps_budget);
  EXPECT_LE(found.best.bits, 12.0);
  EXPECT_GT(found.best.bits, 0.98 * 12.0);
  // What pack makes of the pruned model is what was promised.
  const auto pruned = prune_by(read_back(found));
  std::vector<std::string> linears;
  for (const PlanEntry& entry : found.plan.entries) linears.push_back(entry.tensor);
  const PackReport report = pack_checkpoint(pruned->checkpoint(), linears, folder_.path() / "packed", {});
  EXPECT_NEAR(static_cast<double>(report.target_bytes), found.best.bytes, 0.02 * found.best.bytes);
}

TEST_F(TuneTest, BytesWithGrids) {
  options_.bits = {8, 4, 3};
  constexpr double kBytes = 27400.0;  // between int3 with most zeros and int8
  const TunedPlan found = run(Kind::kBytes, kBytes);
  EXPECT_TRUE(found.keeps_budget);
  EXPECT_LE(found.best.bytes, kBytes);
  EXPECT_GT(found.best.bytes, 0.995 * kBytes);
  EXPECT_LT(found.best.search_kl, found.start.search_kl * 1.0001);
  std::set<int> bits;
  for (const PlanEntry& entry : found.plan.entries) bits.insert(entry.grid->bits);
  EXPECT_GT(bits.size(), 1u);
  const Plan plan = read_back(found);
  const fs::path to = folder_.path() / "packed";
  CheckpointWriter stage(to, stage_plan(model_->checkpoint(), plan));
  Journal journal(stage.temporary_folder(), nlohmann::ordered_json::object(), [] {});
  GridOutput output(model_->checkpoint(), plan, stage, journal, {});
  device_->prune(*model_, plan, text_.calibration, prune_options(), output);
  PackReport report;
  output.write_packed(folder_.path() / "packed", {}, report);
  EXPECT_NEAR(static_cast<double>(report.target_bytes), found.best.bytes, 0.02 * found.best.bytes);
}

// A machine whose products take their bytes' time, a step something more, and where half of what products save is lost.
class FakeClock final : public DecodeClock {
 public:
  double product_us(const PackedTensor& weight) override {
    ++products;
    return us_of(static_cast<double>(std::ssize(weight.bytes())));
  }
  Steps steps(const Model& dense, const Model& beside) override {
    ++models;
    const double saved = us_of(linear_bytes(dense)) - us_of(linear_bytes(beside));
    return {kStepUs, kStepUs - kGain * saved};
  }
  static double us_of(double bytes) { return 0.01 * bytes; }
  // As products of the packed tensors, dense ones too.
  static double linear_bytes(const Model& model) {
    double bytes = 0.0;
    for (const BlockWeight& weight : block_weights(model.config())) {
      const auto packed =
          find_packed(model.checkpoint(), weight.name(), weight.tensors.outputs, weight.tensors.inputs);
      const auto dense = packed ? std::nullopt : pack_dense(model.checkpoint(), weight.name());
      bytes += static_cast<double>(std::ssize((packed ? *packed : *dense).bytes()));
    }
    return bytes;
  }

  static constexpr double kStepUs = 1000.0, kGain = 0.5;
  int products = 0, models = 0;
};

TEST_F(TuneTest, TokensASecond) {
  FakeClock clock;
  options_.clock = &clock;
  const double dense_us = FakeClock::us_of(FakeClock::linear_bytes(*model_));
  // A third of what all linears take.
  const double wanted = 1e6 / (FakeClock::kStepUs - FakeClock::kGain * dense_us / 3.0);
  const TunedPlan found = run(Kind::kSpeed, wanted);
  EXPECT_TRUE(found.keeps_budget);
  EXPECT_DOUBLE_EQ(*found.dense_tokens_per_second, 1e6 / FakeClock::kStepUs);
  EXPECT_NEAR(*found.best.tokens_per_second, wanted, 0.01 * wanted);
  // What pack makes of the pruned model takes what was promised.
  const auto pruned = prune_by(read_back(found));
  std::vector<std::string> linears;
  for (const PlanEntry& entry : found.plan.entries) linears.push_back(entry.tensor);
  pack_checkpoint(pruned->checkpoint(), linears, folder_.path() / "packed", {});
  const auto packed = Model::open(folder_.path() / "packed");
  const double step = clock.steps(*model_, *packed).beside_us;
  EXPECT_NEAR(1e6 / step, wanted, 0.02 * wanted);
  EXPECT_LT(clock.products, 14 * 21);  // shapes share what was measured
  for (const auto& entry : fs::directory_iterator(options_.folder))
    EXPECT_NE(entry.path().filename(), "stand-in");
}

TEST_F(TuneTest, TokensASecondThatCannotBe) {
  FakeClock clock;
  options_.clock = &clock;
  expect_refused(Kind::kSpeed, 900.0, {"--budget", "900 tokens/s", "1000 tokens/s", "nothing to prune"});
  expect_refused(Kind::kSpeed, 1e6, {"--budget", "expected at most", "tokens/s", "97 % zeros"});
  options_.patterns = {parse_pattern("2:4")};
  expect_refused(Kind::kSpeed, 1e6, {"--budget", "expected at most", "tokens/s", "2:4"});
}

TEST_F(TuneTest, PatternsOrDense) {
  options_.patterns = {parse_pattern("2:4"), parse_pattern("3:4"), parse_pattern("4:8")};
  options_.max_trials = 41;
  const TunedPlan found = run(Kind::kSparsity, 0.35);
  EXPECT_TRUE(found.keeps_budget);
  EXPECT_GE(found.best.sparsity, 0.35 - 1e-9);
  EXPECT_LT(found.best.sparsity, 0.45);
  EXPECT_LE(found.best.search_kl, found.start.search_kl);
  std::set<std::string> kinds;
  for (const PlanEntry& entry : found.plan.entries) {
    kinds.insert(format(entry.pattern));
    if (entry.pattern.kind == Pattern::Kind::kNofM) continue;
    EXPECT_EQ(entry.sparsity, 0.0) << entry.tensor;  // nothing between
  }
  EXPECT_GT(kinds.size(), 1u);
  // The plan is read back as it was, and is what prune makes.
  const Plan plan = read_back(found);
  EXPECT_NEAR(plan.sparsity(), found.best.sparsity, 1e-9);
  const auto pruned = prune_by(plan);
  for (const PlanEntry& entry : plan.entries) {
    const Matrix weight = pruned->checkpoint().load_matrix(entry.tensor, entry.rows, entry.cols);
    if (entry.pattern.kind != Pattern::Kind::kNofM) continue;
    for (std::int64_t r = 0; r < entry.rows; ++r) {
      for (std::int64_t c = 0; c < entry.cols; c += entry.pattern.m) {
        const float* group = weight.row(r) + c;
        EXPECT_LE(entry.pattern.m - std::count(group, group + entry.pattern.m, 0.0f), entry.pattern.n);
      }
    }
  }
  expect_refused(Kind::kSparsity, 0.7, {"--sparsity", "70 % zeros", "at most 50 % zeros", "2:4"});
  options_.patterns = {parse_pattern("row")};
  expect_refused(Kind::kSparsity, 0.35, {"--patterns", "found row", "expected N:M"});
}

TEST_F(TuneTest, PatternsWithGrids) {
  options_.patterns = {parse_pattern("2:4")};
  options_.bits = {4, 8};
  const TunedPlan found = run(Kind::kBits, 10.0);
  EXPECT_TRUE(found.keeps_budget);
  EXPECT_LE(found.best.bits, 10.0);
  EXPECT_GT(found.best.bits, 9.0);
  for (const PlanEntry& entry : found.plan.entries) {
    EXPECT_TRUE(entry.grid) << entry.tensor;
    EXPECT_TRUE(entry.sparsity == 0.0 || entry.pattern.kind == Pattern::Kind::kNofM);
  }
}

TEST_F(TuneTest, TheSmallestWithinADivergence) {
  options_.max_trials = 57;
  const double limit = run(Kind::kSparsity, 0.5).best.search_kl;
  options_.folder = folder("kl");
  const TunedPlan found = run(Kind::kDivergence, limit);
  EXPECT_TRUE(found.keeps_budget);
  EXPECT_LE(found.best.search_kl, limit);
  EXPECT_GT(found.best.search_kl, 0.95 * limit);
  EXPECT_GT(found.best.sparsity, 0.4);
  options_.folder = folder("none");
  expect_refused(Kind::kDivergence, 1e-9,
                 {"--max-kl", "found 1e-09", "expected at least", "least that was found"});
}

TEST_F(TuneTest, BudgetsThatCannotBeMet) {
  expect_refused(Kind::kSparsity, 0.99, {"--sparsity", "found 0.99", "at most 0.97"});
  expect_refused(Kind::kBits, 40.0, {"--budget", "40 bits a weight", "nothing to prune"});
  expect_refused(Kind::kBits, 0.5, {"--budget", "0.5 bits a weight", "expected at least", "--quantize"});
  expect_refused(Kind::kBytes, 100.0, {"--budget", "expected at least", "MB"});
  options_.bits = {4};
  expect_refused(Kind::kSparsity, 0.5, {"--sparsity", "--quantize"});
  expect_refused(Kind::kBits, 1.0, {"--budget", "1 bits a weight", "expected at least"});
  expect_refused(Kind::kBits, 40.0, {"--budget", "nothing to choose"});
  options_.bits.clear();
  options_.skip = {"*"};
  expect_refused(Kind::kSparsity, 0.5, {"--skip"});
}

TEST_F(TuneTest, SkippedLinearsStayAndCount) {
  options_.skip = {"*.down_proj.weight"};
  const TunedPlan found = run(Kind::kSparsity, 0.5);
  EXPECT_NEAR(found.plan.sparsity(), 0.5, 1e-9);
  EXPECT_EQ(found.tuned, 12);
  for (const PlanEntry& entry : found.plan.entries)
    EXPECT_EQ(entry.prune, entry.tensor.find("down_proj") == std::string::npos);
}

TEST_F(TuneTest, APlanOfAnotherModelIsRefused) {
  const nlohmann::json document = plan_document(run(Kind::kSparsity, 0.5));
  const auto other = Model::open(SWIFTPRUNE_TEST_DATA "/model/llama2");
  PlanDefaults defaults;
  defaults.score = options_.method->score;
  Plan plan = uniform_plan(*other, defaults, {});
  expect_error(ErrorKind::kBadInput, [&] { apply_plan(document, "plan.json", plan); },
               {"plan.json", "another model", "found [8, 24]"});
}

// Of a method with damping far too high, which one trial of its own shows.
class ParametersTest : public TuneTest {
 protected:
  ParametersTest() {
    text_ = split_for_tuning(test::random_windows(*model_, 48, 64), 8, "t");
    method_.refine = parse_refine("admm(20,15,1000)");
    options_.method = &method_;
    options_.parameters = {"damping"};
    options_.max_trials = 9;
  }
  std::size_t kept_trials() const {
    std::ifstream in(options_.folder / "parameters.jsonl");
    return static_cast<std::size_t>(
        std::count(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>(), '\n'));
  }
  Method method_ = method_by_name("best");
};

TEST_F(ParametersTest, AreFoundBeforeTheLevelsAndStandInThePlan) {
  const TunedPlan found = run(Kind::kSparsity, 0.2);
  const auto& trials = found.parameters.trials;
  ASSERT_GE(trials.size(), 3u);
  EXPECT_TRUE(found.parameters.whole);
  EXPECT_EQ(trials[0].parameter, "");
  ASSERT_EQ(found.parameters.found.size(), 1u) << to_json(found.parameters);
  EXPECT_EQ(found.parameters.found[0].first, "damping");
  EXPECT_EQ(found.parameters.found[0].second, 100.0);
  const auto taken = std::find_if(trials.begin(), trials.end(), [](const auto& t) { return t.taken; });
  ASSERT_NE(taken, trials.end());
  EXPECT_LT(taken->difference, -taken->noise);
  EXPECT_NEAR(taken->difference, taken->search_kl - trials[0].search_kl, 1e-12);
  // What was tried is what the levels start from, and what prune makes of the plan.
  EXPECT_NEAR(found.start.search_kl, taken->search_kl, 1e-9);
  EXPECT_NEAR(*found.start.check_kl, taken->check_kl, 1e-9);
  const Plan plan = read_back(found);
  for (const PlanEntry& entry : plan.entries) EXPECT_EQ(entry.refine, found.setup.method.refine);
  EXPECT_NE(found.setup.method.refine, method_.refine);

  TuneReport report;
  report.result = found;
  report.budget = options_.budget;
  const auto json = to_json(report)["parameters"];
  EXPECT_EQ(json["found"]["damping"], found.parameters.found[0].second);
  EXPECT_EQ(json["trials"].size(), trials.size());
  EXPECT_THAT(to_html(report), HasSubstr("Parameters of the method"));
  EXPECT_THAT(headline(found.parameters), HasSubstr("damping"));
}

TEST_F(ParametersTest, TheSameRunGoesOnBehindItsTrials) {
  const TunedPlan once = run(Kind::kSparsity, 0.2);
  const std::size_t trials = kept_trials();
  EXPECT_EQ(trials, once.parameters.trials.size());
  // With the levels, and as if the run had been killed before they were there.
  for (const bool with_levels : {true, false}) {
    SCOPED_TRACE(with_levels);
    if (!with_levels) {
      for (const auto& entry : fs::directory_iterator(options_.folder)) {
        if (entry.path().filename() != "parameters.jsonl") fs::remove_all(entry.path());
      }
      std::ofstream(options_.folder / "parameters.jsonl", std::ios::app) << R"({"identity":)";
    }
    const TunedPlan again = run(Kind::kSparsity, 0.2);
    EXPECT_EQ(plan_document(again), plan_document(once));
    EXPECT_EQ(to_json(again.parameters), to_json(once.parameters));
    EXPECT_EQ(kept_trials(), trials);
  }
  // Another run's trials are none of ours.
  fs::remove(options_.folder / "levels.json");
  for (const auto& entry : fs::directory_iterator(options_.folder)) {
    if (entry.path().filename() != "parameters.jsonl") fs::remove_all(entry.path());
  }
  test::write_text(options_.folder / "parameters.jsonl", "");
  options_.identity = {{"run", 2}};
  EXPECT_EQ(plan_document(run(Kind::kSparsity, 0.2)), plan_document(once));
  EXPECT_EQ(kept_trials(), trials);
}

TEST_F(ParametersTest, RanksFindThoseOfOneProcess) {
  const TunedPlan one = run(Kind::kSparsity, 0.2);
  TuneOptions shared = options_;
  shared.folder = folder("shared");
  test::ThreadRanks(2).run([&](Communicator& ranks) {
    const auto device = open_device("cpu");
    const TunedPlan found = tune(*model_, *device, text_, shared, ranks);
    EXPECT_EQ(plan_document(found), plan_document(one));
    EXPECT_EQ(found.parameters.found, one.parameters.found);
  });
}

TEST_F(ParametersTest, TheTimeLeavesTheMethodAsItIs) {
  options_.max_seconds = 1e-9;
  const TunedPlan found = run(Kind::kSparsity, 0.2);
  EXPECT_EQ(found.parameters.trials.size(), 1u);
  EXPECT_FALSE(found.parameters.whole);
  EXPECT_TRUE(found.parameters.found.empty());
  EXPECT_THAT(headline(found.parameters), HasSubstr("the time was over"));
}

TEST_F(ParametersTest, ThatCannotBeTried) {
  options_.parameters = {"alpha"};
  expect_refused(Kind::kSparsity, 0.2, {"--parameters", "found alpha", "steps, damping, rho, windows"});
  options_.parameters = {"damping"};
  text_ = split_for_tuning(test::random_windows(*model_, 6, 64), 4, "t");
  expect_refused(Kind::kSparsity, 0.2, {"--parameters", "found 1 window", "--search-windows"});
}

// Its threshold is one for all rows, whatever an allocation would like.
TEST_F(ParametersTest, TheEwmaSelectionHasNoRowBudgets) {
  method_ = method_by_name("wanda");
  options_.budget = {Kind::kSparsity, 0.5};
  const auto has_budgets = [&] {
    const LevelChoice choice(*model_, options_, nullptr);
    Plan plan = choice.start_plan();
    const bool start = plan.entries.front().row_budgets;
    for (PlanEntry& entry : plan.entries) entry.row_budgets = true;  // as an allocation does
    choice.set_method(plan);
    EXPECT_EQ(start, plan.entries.front().row_budgets);
    return start;
  };
  EXPECT_TRUE(has_budgets());
  method_.select = SelectKind::kEwma;
  EXPECT_FALSE(has_budgets());
}

TEST_F(TuneTest, AnInterruptLeavesTheBestSoFar) {
  std::stop_source stop;
  options_.forward.progress = [&](std::string_view stage, std::int64_t, std::int64_t) {
    if (stage == "search") stop.request_stop();
  };
  RunContext context;
  context.stop = stop.get_token();
  const RunScope scope(context);
  const TunedPlan found = run(Kind::kSparsity, 0.6);
  EXPECT_TRUE(found.interrupted());
  EXPECT_EQ(found.trials, 9);
  EXPECT_NEAR(found.plan.sparsity(), 0.6, 1e-9);
  EXPECT_FALSE(found.best.check_kl);
  EXPECT_LE(found.best.search_kl, found.start.search_kl);
}

TEST_F(TuneTest, TheTimeEndsTheSearch) {
  options_.max_seconds = 1e-9;
  const TunedPlan found = run(Kind::kSparsity, 0.6);
  EXPECT_EQ(found.ended, "the time");
  EXPECT_EQ(found.trials, 9);  // the start and one round
  EXPECT_TRUE(found.best.check_kl);
}

TEST_F(TuneTest, TheReportShowsBothTexts) {
  TuneReport report;
  report.model = "a <model>";
  report.text = "own.txt";
  report.result = run(Kind::kSparsity, 0.6);
  report.budget = options_.budget;
  report.command = "swiftprune prune";
  const std::string page = to_html(report);
  for (const char* text :
       {"a &lt;model&gt;", "60 % zeros", "The budget is kept", "Recommended", "Divergence, check", "<svg"})
    EXPECT_THAT(page, HasSubstr(text));
  EXPECT_THAT(page, ::testing::Not(HasSubstr("<script")));
  const auto json = to_json(report);
  EXPECT_EQ(json["best"]["search_kl"], report.result.best.search_kl);
  EXPECT_EQ(json["best"]["check_kl"], *report.result.best.check_kl);
  EXPECT_EQ(json["line"].size(), report.result.line.size());
  EXPECT_THAT(headline(report), HasSubstr("did not see"));
  EXPECT_GT(report.result.solve_seconds, 0.0);
  EXPECT_GT(report.result.search_seconds, 0.0);
  report.result.start = report.result.best;
  report.result.start.search_kl *= 2.0;
  EXPECT_THAT(headline(report), HasSubstr("does not carry over"));
  EXPECT_THAT(to_html(report), HasSubstr("class=\"verdict fair\""));
  *report.result.start.check_kl *= 2.0;
  EXPECT_THAT(headline(report), ::testing::Not(HasSubstr("does not carry over")));
  EXPECT_THAT(to_html(report), HasSubstr("class=\"verdict good\""));
}

}  // namespace
}  // namespace swiftprune
