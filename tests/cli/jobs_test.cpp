// The library's jobs (api/) beside the commands of the same names: the same bytes, the same documents, the same messages,
// and errors as values.
#include <limits>
#include <set>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/program.h"
#include "swiftprune/api/compare_job.h"
#include "swiftprune/api/eval_job.h"
#include "swiftprune/api/prune_job.h"
#include "swiftprune/api/shrink_job.h"
#include "swiftprune/api/text_generator.h"
#include "swiftprune/templates/json_value.h"

namespace swiftprune {
namespace {

using ::testing::HasSubstr;
using OrderedJson = nlohmann::ordered_json;

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
  ShrinkJob shrink_job(const std::string& folder, const std::string& out) {
    ShrinkJob job;
    job.model = folder;
    job.out = at(out);
    job.ratio = 0.25;
    job.calibration.sources = {ids(600)};
    job.calibration.seqlen = 32;
    job.windows = 4;
    job.align = 4;
    job.where.compute = "f32";
    return job;
  }
  // The command line of the job's record, for another folder.
  void repeat(const OrderedJson& record, const std::string& out, const std::string& again) {
    auto arguments = record.at("command").at("arguments").get<std::vector<std::string>>();
    ASSERT_EQ(arguments.at(0), "swiftprune");
    arguments.erase(arguments.begin());
    *std::ranges::find(arguments, at(out)) = at(again);
    const test::Finished finished = run(arguments);
    ASSERT_EQ(finished.exit_code, 0) << finished.error;
  }
  void expect_same_folders(const std::string& a, const std::string& b,
                           std::initializer_list<const char*> files = {"model.safetensors", "plan.json",
                                                                       "config.json"}) {
    for (const char* file : files)
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
  const OrderedJson record = OrderedJson::parse(test::read_text(at("job") + "/swiftprune.json"));
  EXPECT_EQ(record, outcome.value().record);
  repeat(record, "job", "repeated");
  expect_same_folders("job", "repeated");
}

TEST_F(Jobs, ThePermutationIsRecorded) {
  PruneJob job = prune_job("job");
  job.pattern = "2:4";
  job.method = "wanda";
  job.permute = "mlp";
  const auto outcome = job.run();
  ASSERT_TRUE(outcome.ok()) << outcome.error().what();
  repeat(outcome.value().record, "job", "repeated");
  expect_same_folders("job", "repeated");
}

// Units that are mixed by measured loss, layers that go, widths that differ, and both kinds of experts.
TEST_F(Jobs, ShrinkWritesTheCommandsBytes) {
  const std::string dense = model("llama2"), experts = test::kExpertModels / "qwen3_moe_fused";
  std::vector<ShrinkJob> jobs;
  jobs.push_back(shrink_job(dense, ""));
  jobs.push_back(shrink_job(dense, ""));
  jobs.back().units = "mlp,heads,layers";
  jobs.back().compensate = "aligned";
  jobs.push_back(shrink_job(dense, ""));
  jobs.back().non_uniform = true;
  jobs.back().widths_by = "score";
  jobs.push_back(shrink_job(experts, ""));
  jobs.back().units = "experts";
  jobs.back().align = ShrinkJob().align;
  jobs.back().keep_super = false;
  jobs.push_back(shrink_job(experts, ""));
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    SCOPED_TRACE(i);
    const std::string out = "job" + std::to_string(i), again = "again" + std::to_string(i);
    jobs[i].out = at(out);
    const Outcome<ShrinkReport> outcome = jobs[i].run();
    ASSERT_TRUE(outcome.ok()) << outcome.error().what();
    const ShrinkReport& report = outcome.value();
    EXPECT_EQ(report.result.index(), i < 3 ? 0u : i - 2u);
    EXPECT_LT(report.parameters, report.record.at("parameters").at("dense").get<std::int64_t>());
    EXPECT_EQ(report.calibration.windows, 4);
    EXPECT_EQ(OrderedJson::parse(test::read_text(at(out) + "/swiftprune.json")), report.record);
    repeat(report.record, out, again);
    expect_same_folders(out, again, {"model.safetensors", "config.json"});
  }
  EXPECT_TRUE(hidden_files().empty());
}

TEST_F(Jobs, ShrinkRefusesWhatTheCommandDoes) {
  const std::string experts = test::kExpertModels / "qwen3_moe_fused";
  const auto refused = [&](const ShrinkJob& job, const char* text) {
    const auto outcome = job.run();
    ASSERT_FALSE(outcome.ok()) << text;
    EXPECT_EQ(outcome.error().kind(), ErrorKind::kUsage) << outcome.error().what();
    EXPECT_THAT(outcome.error().what(), HasSubstr(text));
  };
  ShrinkJob job = shrink_job(model("llama2"), "out");
  job.rounds = 2;
  refused(job, "--rounds: found it with --units mlp");
  job = shrink_job(model("llama2"), "out");
  job.resume = true;
  refused(job, "--resume: found it with --units mlp");
  job = shrink_job(model("llama2"), "out");
  job.ratio.reset();
  refused(job, "found 0 of them, expected one");
  job = shrink_job(experts, "out");
  job.units = "experts";
  refused(job, "--align: found it with --units experts");
  job = shrink_job(experts, "out");
  job.non_uniform = true;
  refused(job, "--non-uniform: found it with --units mlp of a model with experts");
  job = shrink_job(model("llama2"), "out");
  job.widths_by = "luck";
  refused(job, "--widths-by: found 'luck', expected one of change, score");
  job = shrink_job(model("llama2"), "out");
  job.alpha = 2.0;
  refused(job, "--alpha: found 2, expected 0 to 1");
  job = shrink_job(model("llama2"), "out");
  job.windows = 0;
  refused(job, "--windows: found 0, expected 1 to 1048576");
  job = shrink_job(model("llama2"), "out");
  job.out = job.model + "/inside";
  refused(job, "--out: found");
  EXPECT_FALSE(std::filesystem::exists(at("out")));
}

TEST_F(Jobs, ShrinkStops) {
  std::stop_source stop;
  ShrinkJob job = shrink_job(test::kExpertModels / "qwen3_moe_fused", "out");
  job.units = "experts";
  job.align = ShrinkJob().align;
  job.resume = true;
  JobContext context;
  context.run.stop = stop.get_token();
  context.run.progress = [&](std::string_view stage, std::int64_t done, std::int64_t) {
    if (stage == "shrink" && done == 1) stop.request_stop();
  };
  const auto outcome = job.run(context);
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.error().kind(), ErrorKind::kInterrupted);
  EXPECT_EQ(kept_layers(job), "1 finished block is kept; the same command goes on with it");
  std::vector<std::string> notes;
  const auto resumed = job.run({.note = [&](const std::string& note) { notes.push_back(note); }});
  ASSERT_TRUE(resumed.ok()) << resumed.error().what();
  EXPECT_THAT(notes, ::testing::Contains("--resume: going on behind 1 finished blocks"));
  job.resume = false;
  job.out = at("whole");
  ASSERT_TRUE(job.run().ok());
  expect_same_folders("out", "whole", {"model.safetensors", "config.json"});
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
    const OrderedJson& bits = report.record.at("bits");
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
    const OrderedJson told = OrderedJson::parse(dry.out);
    EXPECT_EQ(told.at("estimate").at("bits"), bits.at("planned"));
    EXPECT_EQ(told.at("plan"), OrderedJson::parse(test::read_text(job->out + "/plan.json")));
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

// What the command's parser sees to, a program may get wrong.
TEST_F(Jobs, ValuesOutOfBoundsAreErrorsToo) {
  const auto refuses = [](const auto& job, const char* message) {
    const auto outcome = job.run();
    ASSERT_FALSE(outcome.ok()) << message;
    EXPECT_EQ(outcome.error().kind(), ErrorKind::kUsage) << outcome.error().what();
    EXPECT_THAT(outcome.error().what(), HasSubstr(message));
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refuses_prune = [&](const char* message, const auto& change) {
    PruneJob job = prune_job("out");
    change(job);
    refuses(job, message);
  };
  refuses_prune("--calibration: found nothing", [](PruneJob& job) { job.calibration.sources = {}; });
  refuses_prune("--out: found nothing", [](PruneJob& job) { job.out = ""; });
  refuses_prune("MODEL: found nothing", [](PruneJob& job) { job.model = ""; });
  refuses_prune("--allocate: found 'even'", [](PruneJob& job) { job.allocate = "even"; });
  refuses_prune("--propagate: found 'both'", [](PruneJob& job) { job.propagate = "both"; });
  refuses_prune("--store: found 'disk'", [](PruneJob& job) { job.store = "disk"; });
  refuses_prune("--quantize-embeddings: found 'int2'", [](PruneJob& job) { job.embeddings = "int2"; });
  refuses_prune("--min-expert-tokens: found -1", [](PruneJob& job) { job.min_expert_tokens = -1; });
  refuses_prune("--seqlen: found 1,", [](PruneJob& job) { job.calibration.seqlen = 1; });
  refuses_prune("--group: found '16'", [](PruneJob& job) { job.group = "16"; });
  refuses_prune("--low-rank: found -1", [](PruneJob& job) { job.low_rank = -1; });
  refuses_prune("--bits: found nan", [&](PruneJob& job) { job.bits = nan; });
  refuses_prune("--ewma-alpha: found nan", [&](PruneJob& job) { job.alpha = nan; });
  EXPECT_FALSE(std::filesystem::exists(at("out")));

  const auto refuses_eval = [&](const char* message, const auto& change) {
    EvalJob job;
    job.model = model("llama2");
    job.texts.files = {ids(600)};
    change(job);
    refuses(job, message);
  };
  refuses_eval("--seqlen: found 1", [](EvalJob& job) { job.texts.seqlen = 1; });
  refuses_eval("--windows: found -1", [](EvalJob& job) { job.texts.windows = -1; });
  refuses_eval("--stride: found -1", [](EvalJob& job) { job.texts.stride = -1; });
  refuses_eval("--bos: found 'ever'", [](EvalJob& job) { job.texts.bos = "ever"; });
  refuses_eval("--limit: found -1", [](EvalJob& job) { job.limit = -1; });

  const auto refuses_compare = [&](const char* message, const auto& change) {
    CompareJob job;
    job.dense = model("llama2");
    job.pruned = {model("llama2")};
    job.texts.files = {ids(600)};
    change(job);
    refuses(job, message);
  };
  refuses_compare("PRUNED: found no model", [](CompareJob& job) { job.pruned = {}; });
  refuses_compare("--max-tokens: found 0", [](CompareJob& job) { job.max_tokens = 0; });
  refuses_compare("--error-tokens: found -1", [](CompareJob& job) { job.error_tokens = -1; });
  refuses_compare("--max-perplexity-ratio: found nan",
                  [&](CompareJob& job) { job.gates.max_perplexity_ratio = nan; });
}

TEST_F(Jobs, AStopIsAnErrorAndLeavesNothing) {
  std::stop_source stop;
  stop.request_stop();
  const auto outcome = prune_job("out").run({.run = {.stop = stop.get_token()}});
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.error().kind(), ErrorKind::kInterrupted);
  EXPECT_THAT(outcome.error().what(), HasSubstr("interrupted"));
  EXPECT_FALSE(std::filesystem::exists(at("out")));
  EXPECT_TRUE(hidden_files().empty());
}

// As a device does that fails in the middle: what the driver hears between two blocks comes the same way.
TEST_F(Jobs, ADeviceErrorInTheMiddleLeavesNothing) {
  const auto context = [](std::string_view failing) {
    JobContext told;
    told.run.progress = [=](std::string_view stage, std::int64_t done, std::int64_t) {
      if (stage == failing && done == 1) fail(ErrorKind::kDevice, "cuda: the device is lost");
    };
    return told;
  };
  const auto is_told = [&](const auto& outcome, const std::string& message) {
    ASSERT_FALSE(outcome.ok());
    EXPECT_EQ(outcome.error().kind(), ErrorKind::kDevice);
    EXPECT_EQ(outcome.error().what(), message);
    EXPECT_FALSE(std::filesystem::exists(at("out")));
  };
  is_told(prune_job("out").run(context("prune")), "cuda: the device is lost");
  EXPECT_TRUE(hidden_files().empty());
  is_told(shrink_job(model("llama2"), "out").run(context("shrink")), "cuda: the device is lost");
  EXPECT_TRUE(hidden_files().empty());
  PruneJob resumable = prune_job("out");
  resumable.resume = true;
  is_told(resumable.run(context("prune")),
          "cuda: the device is lost; 1 finished block is kept; the same command goes on with it");
  EXPECT_TRUE(resumable.run().ok());
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
  OrderedJson expected = OrderedJson::parse(command.out), found = to_json(report.value());
  EXPECT_EQ(report.value().perplexity(), expected.at("perplexity"));
  const auto forget_times = [](OrderedJson& document) {
    for (const char* key : {"seconds", "tokens_per_second"}) document.erase(key);
    for (OrderedJson& text : document["texts"]) {
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
  const OrderedJson models = OrderedJson::parse(compared.out).at("models"),
                    ours = to_json(comparison.value()).at("models");
  ASSERT_EQ(ours.size(), 2u);
  EXPECT_EQ(ours[1].at("divergence"), models[1].at("divergence"));
  EXPECT_EQ(ours[1].at("folder"), models[1].at("folder"));
}

TEST_F(Jobs, TextIsTheCommandsAndErrorsAreValues) {
  const std::string folder = (std::filesystem::path(SWIFTPRUNE_TEST_DATA) / "evaluation/model").string();
  const auto generator = TextGenerator::open({.model = folder});
  ASSERT_TRUE(generator.ok()) << generator.error().what();
  std::string pieces;
  const auto written = generator.value()->generate("The quick", {.max_tokens = 12}, {},
                                                   [&](std::string_view piece) { pieces += piece; });
  ASSERT_TRUE(written.ok()) << written.error().what();
  const test::Finished command = run({"generate", folder, "--prompt", "The quick", "-n", "12", "--json"});
  const OrderedJson document = OrderedJson::parse(command.out);
  EXPECT_EQ(written.value().text, document.at("text"));
  EXPECT_TRUE(written.value().text.starts_with(pieces));
  EXPECT_EQ(written.value().stopped_by, document.at("stop"));
  EXPECT_EQ(written.value().num_tokens, document.at("tokens"));
  EXPECT_EQ(written.value().prompt_tokens, document.at("prompt_tokens"));

  // Stopped while it writes, and asked again.
  std::stop_source stop;
  JobContext context;
  context.run.stop = stop.get_token();
  const auto stopped = generator.value()->generate("The quick", {.max_tokens = 12}, context,
                                                   [&](std::string_view) { stop.request_stop(); });
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().kind(), ErrorKind::kInterrupted);
  EXPECT_THAT(stopped.error().what(), HasSubstr("interrupted"));
  EXPECT_EQ(generator.value()->generate("The quick", {.max_tokens = 12}).value().text, written.value().text);

  for (const auto& [message, sampler] :
       {std::pair{"temperature: found -1", SamplerOptions{.temperature = -1.0}},
        std::pair{"top_p: found 7", SamplerOptions{.temperature = 1.0, .top_p = 7.0}},
        std::pair{"min_p: found 2", SamplerOptions{.temperature = 1.0, .min_p = 2.0}},
        std::pair{"top_k: found -1", SamplerOptions{.temperature = 1.0, .top_k = -1}}}) {
    const auto refused = generator.value()->generate("The quick", {.max_tokens = 12, .sampler = sampler});
    ASSERT_FALSE(refused.ok()) << message;
    EXPECT_THAT(refused.error().what(), HasSubstr(message));
  }
  const auto long_one = generator.value()->generate("The quick", {.max_tokens = 1 << 24});
  ASSERT_FALSE(long_one.ok());
  EXPECT_EQ(long_one.error().kind(), ErrorKind::kUsage);
  const auto conversation = generator.value()->generate(templates::chat_request_of(
      templates::parse_json_value(R"({"messages": [{"role": "user", "content": "Hello"}]})", "body")));
  ASSERT_FALSE(conversation.ok());
  EXPECT_THAT(conversation.error().what(), HasSubstr("no chat template"));
  const auto missing = TextGenerator::open({.model = at("missing")});
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().kind(), ErrorKind::kBadInput);
}

}  // namespace
}  // namespace swiftprune
