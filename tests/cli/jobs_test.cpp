// The library's jobs (api/) beside the commands of the same names: the same bytes, the same documents, the same messages,
// and errors as values.
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/program.h"
#include "swiftprune/api/compare_job.h"
#include "swiftprune/api/eval_job.h"
#include "swiftprune/api/prune_job.h"

namespace swiftprune {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

class Jobs : public test::ProgramTest {
 protected:
  PruneJob prune_job(const std::string& out) {
    PruneJob job;
    job.model = model("llama2");
    job.out = at(out);
    job.calibration.sources = {ids(600)};
    job.calibration.seqlen = 32;
    job.windows = "4";
    job.where.compute = "f32";
    return job;
  }
  void expect_same_folders(const std::string& a, const std::string& b) {
    for (const char* file : {"model.safetensors", "plan.json", "config.json"})
      EXPECT_EQ(test::read_text(at(a) + "/" + file), test::read_text(at(b) + "/" + file)) << file;
  }
};

TEST_F(Jobs, PruneWritesTheCommandsBytes) {
  PruneJob job = prune_job("job");
  job.sparsity = 0.5;
  job.overrides = {{"*.down_proj.weight", "sparsity=0.25"}};
  int steps = 0;
  JobContext context;
  context.run.progress = [&](std::string_view, std::int64_t, std::int64_t) { ++steps; };
  const Outcome<PruneReport> outcome = job.run(context);
  ASSERT_TRUE(outcome.ok()) << outcome.error().what();
  EXPECT_GT(steps, 0);
  EXPECT_NEAR(outcome.value().result.sparsity, outcome.value().plan.sparsity(), 0.02);
  const test::Finished command =
      run({"prune", model("llama2"), "-o", at("command"), "--override", "*.down_proj.weight", "sparsity=0.25",
           "--calibration", at("ids.u16"), "--seqlen", "32", "--windows", "4", "--compute", "f32"});
  ASSERT_EQ(command.exit_code, 0) << command.error;
  expect_same_folders("job", "command");

  // The command of the record repeats it.
  const Json record = Json::parse(test::read_text(at("job") + "/swiftprune.json"));
  EXPECT_EQ(record, outcome.value().record);
  auto arguments = record.at("command").at("arguments").get<std::vector<std::string>>();
  ASSERT_EQ(arguments.at(0), "swiftprune");
  arguments.erase(arguments.begin());
  *std::ranges::find(arguments, at("job")) = at("repeated");
  ASSERT_EQ(run(arguments).exit_code, 0);
  expect_same_folders("job", "repeated");
}

TEST_F(Jobs, QuantizeWritesTheCommandsBytes) {
  QuantizeJob job;
  job.model = model("llama2");
  job.out = at("job");
  job.method = "rtn";
  job.group = "row";
  const auto outcome = job.run();
  ASSERT_TRUE(outcome.ok()) << outcome.error().what();
  EXPECT_GT(outcome.value().packing.packed_bytes, 0);
  ASSERT_EQ(
      run({"quantize", model("llama2"), "-o", at("command"), "--method", "rtn", "--group", "row"}).exit_code,
      0);
  expect_same_folders("job", "command");
}

// The mean is kept, the packed model takes what was promised, and the plan repeats it.
TEST_F(Jobs, BitsForABudget) {
  PruneJob zeros = prune_job("zeros");
  QuantizeJob none;
  static_cast<PruneJob&>(none) = prune_job("none");
  none.zeros = false;
  none.sparsity = 0.0;
  for (PruneJob* job : {&zeros, static_cast<PruneJob*>(&none)}) {
    SCOPED_TRACE(job->out);
    const bool with_zeros = job == &zeros;
    job->group = "row";
    job->bits =
        with_zeros ? 10.0 : 11.5;  // of linears so small that headers and panels weigh as much as codes
    const auto outcome = job->run();
    ASSERT_TRUE(outcome.ok()) << outcome.error().what();
    const PruneReport& report = outcome.value();
    const Json& bits = report.record.at("bits");
    EXPECT_EQ(bits.at("asked"), *job->bits);
    EXPECT_LE(bits.at("planned").get<double>(), *job->bits + 1e-6);
    EXPECT_GT(bits.at("planned").get<double>(), 0.93 * *job->bits);
    EXPECT_NEAR(bits.at("stored").get<double>() / bits.at("planned").get<double>(), 1.0, 0.02);
    EXPECT_EQ(stored_bits(report), bits.at("stored").get<double>());
    std::set<int> used;
    bool prunes = false;
    for (const PlanEntry& entry : report.plan.entries) {
      used.insert(entry.grid->bits);
      prunes |= entry.sparsity > 0.0;
    }
    EXPECT_GT(used.size(), 1u);
    EXPECT_EQ(prunes, with_zeros);
    // The command with its options; then the plan that it wrote.
    const std::vector<std::string> text = {"--calibration", at("ids.u16"), "--seqlen",  "32",
                                           "--windows",     "4",           "--compute", "f32"};
    std::vector<std::string> command = {with_zeros ? "prune" : "quantize",
                                        model("llama2"),
                                        "-o",
                                        at("command-" + std::string(with_zeros ? "a" : "b")),
                                        "--bits",
                                        with_zeros ? "10" : "11.5",
                                        "--group",
                                        "row"};
    command.insert(command.end(), text.begin(), text.end());
    const test::Finished same = run(command);
    ASSERT_EQ(same.exit_code, 0) << same.error;
    EXPECT_THAT(same.out, HasSubstr("tensors, "));
    const auto expect_same = [&](const std::string& folder) {
      for (const char* file : {"/model.safetensors", "/plan.json"})
        EXPECT_EQ(test::read_text(job->out + file), test::read_text(folder + file)) << folder << file;
    };
    expect_same(command[3]);
    std::vector<std::string> planned = {"prune",  model("llama2"),          "-o", command[3] + "-plan",
                                        "--plan", command[3] + "/plan.json"};
    planned.insert(planned.end(), text.begin(), text.end());
    const test::Finished repeated = run(planned);
    ASSERT_EQ(repeated.exit_code, 0) << repeated.error;
    expect_same(planned[3]);
    // A dry run tells the bits.
    command[3] = at("dry");
    command.insert(command.end(), {"--dry-run", "--json"});
    const test::Finished dry = run(command);
    ASSERT_EQ(dry.exit_code, 0) << dry.error;
    const Json told = Json::parse(dry.out);
    EXPECT_EQ(told.at("estimate").at("bits"), bits.at("planned"));
    EXPECT_EQ(told.at("plan"), Json::parse(test::read_text(job->out + "/plan.json")));
    EXPECT_FALSE(std::filesystem::exists(at("dry")));
  }
}

TEST_F(Jobs, ErrorsAreValues) {
  PruneJob job = prune_job("out");
  job.pattern = "2:4";
  job.sparsity = 0.6;
  job.sparsity_given = true;
  const auto refused = job.run();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().kind(), ErrorKind::kUsage);
  EXPECT_THROW((void)refused.value(), Error);
  const test::Finished command =
      run({"prune", job.model, "-o", job.out, "--pattern", "2:4", "--sparsity", "0.6"});
  EXPECT_THAT(command.error, HasSubstr(refused.error().what()));

  job.model = "Org/Model";
  EXPECT_EQ(job.run().error().kind(), ErrorKind::kBadInput);
  job = prune_job("out");
  job.where.device = "abacus";
  EXPECT_EQ(job.run().error().kind(), ErrorKind::kUsage);
  EXPECT_FALSE(std::filesystem::exists(at("out")));

  EvalJob eval;
  eval.model = model("llama2");
  EXPECT_EQ(eval.run().error().kind(), ErrorKind::kUsage);
  CompareJob compare;
  compare.dense = model("llama2");
  EXPECT_THAT(compare.run().error().what(), HasSubstr("--text"));
}

TEST_F(Jobs, AStopIsAnErrorAndLeavesNothing) {
  std::stop_source stop;
  stop.request_stop();
  const auto outcome = prune_job("out").run({.run = {.stop = stop.get_token()}});
  ASSERT_FALSE(outcome.ok());
  EXPECT_THAT(outcome.error().what(), HasSubstr("interrupted"));
  EXPECT_FALSE(std::filesystem::exists(at("out")));
  EXPECT_TRUE(hidden_files().empty());
}

TEST_F(Jobs, EvalAndCompareGiveTheCommandsDocuments) {
  PruneJob prune = prune_job("half");
  prune.method = "magnitude";
  ASSERT_TRUE(prune.run().ok());
  EvalJob eval;
  eval.model = at("half");
  eval.texts.files = {ids(600)};
  eval.texts.seqlen = 32;
  const auto report = eval.run();
  ASSERT_TRUE(report.ok()) << report.error().what();
  const test::Finished command =
      run({"eval", at("half"), "--text", at("ids.u16"), "--seqlen", "32", "--json"});
  Json expected = Json::parse(command.out), found = to_json(report.value());
  EXPECT_EQ(report.value().perplexity(), expected.at("perplexity"));
  const auto forget_times = [](Json& document) {
    for (const char* key : {"seconds", "tokens_per_second"}) document.erase(key);
    for (Json& text : document["texts"]) {
      for (const char* key : {"seconds", "tokens_per_second"}) text.erase(key);
    }
  };
  forget_times(expected);
  forget_times(found);
  EXPECT_EQ(found.dump(), expected.dump());

  CompareJob compare;
  compare.dense = model("llama2");
  compare.pruned = {at("half")};
  compare.texts = eval.texts;
  compare.gates.max_kl = 1e-9;
  const auto comparison = compare.run();
  ASSERT_TRUE(comparison.ok()) << comparison.error().what();
  EXPECT_FALSE(comparison.value().passed());
  const test::Finished compared =
      run({"compare", model("llama2"), at("half"), "--text", at("ids.u16"), "--seqlen", "32", "--json"});
  const Json models = Json::parse(compared.out).at("models"), ours = to_json(comparison.value()).at("models");
  ASSERT_EQ(ours.size(), 2u);
  EXPECT_EQ(ours[1].at("divergence"), models[1].at("divergence"));
  EXPECT_EQ(ours[1].at("folder"), models[1].at("folder"));
}

}  // namespace
}  // namespace swiftprune
