// eval, compare, pilot and prune --gate as a user runs them: exit codes, what stands in the first line,
// files.
#include <sys/wait.h>

#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "evaluation/pruned_copy.h"
#include "support/temp_dir.h"
#include "swiftprune/report/comparison.h"
#include "swiftprune/text/corpus.h"

namespace swiftprune {
namespace {

using test::kTinyModel;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class EvaluationProgramTest : public ::testing::Test {
 protected:
  EvaluationProgramTest() {
    test::write_changed(at("half"), test::zeros(1, 2));
    std::vector<std::int32_t> ids;
    for (std::int32_t i = 0; i < 700; ++i) ids.push_back(i * 31 % 300);
    write_token_ids(at("own.u16"), ids);
    test::write_text(at("own.txt"), std::string(3000, 'x') + "The sun is a star. ");
  }
  std::string at(const std::string& name) const { return (folder_.path() / name).string(); }

  int run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), SWIFTPRUNE_PROGRAM);
    const std::string command = shell_command(arguments) + " >" + at("out") + " 2>" + at("error");
    const int status = std::system(command.c_str());
    out_ = test::read_text(at("out"));
    error_ = test::read_text(at("error"));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  test::TempDir folder_;
  std::string out_, error_;
};

TEST_F(EvaluationProgramTest, EvalPrintsTheConvention) {
  const std::string model = kTinyModel.string();
  ASSERT_EQ(run({"eval", model, "--text", at("own.txt"), at("own.u16"), "--seqlen", "32", "--windows", "2",
                 "--json"}),
            0)
      << error_;
  const auto json = nlohmann::json::parse(out_);
  EXPECT_EQ(json["convention"], "windows");
  EXPECT_EQ(json["texts"].size(), 2u);
  EXPECT_EQ(json["tokens"], 4 * 31);
  EXPECT_TRUE(json.contains("bits_per_byte"));
  for (const char* convention : {"llama.cpp", "strided"}) {
    ASSERT_EQ(run({"eval", model, "--text", at("own.u16"), "--seqlen", "32", "--convention", convention}), 0)
        << error_;
    EXPECT_THAT(out_, HasSubstr(std::string("(") + convention + ")"));
  }
  ASSERT_EQ(
      run({"eval", model, "--task", (test::kEvaluationData / "piqa.jsonl").string(), "--json", "--items"}),
      0);
  EXPECT_EQ(nlohmann::json::parse(out_)["tasks"][0]["results"].size(), 3u);
}

TEST_F(EvaluationProgramTest, CompareWritesItsFiles) {
  ASSERT_EQ(run({"compare", kTinyModel.string(), at("half"), "--text", at("own.u16"), "--seqlen", "64",
                 "--report", at("page.html"), "--markdown", at("table.md"), "--json"}),
            0)
      << error_;
  EXPECT_EQ(nlohmann::json::parse(out_)["models"].size(), 2u);
  EXPECT_THAT(test::read_text(at("page.html")), StartsWith("<!DOCTYPE html>"));
  EXPECT_THAT(test::read_text(at("table.md")), HasSubstr("| half |"));
}

TEST_F(EvaluationProgramTest, AFailedGateComesFirst) {
  const std::vector<std::string> command = {
      "compare", kTinyModel.string(),      at("half"), "--text",   at("own.u16"), "--seqlen",
      "64",      "--max-perplexity-ratio", "1e9",      "--max-kl", "1e-6"};
  EXPECT_EQ(run(command), 5);
  EXPECT_THAT(out_, StartsWith("FAIL  half: --max-kl: found "));
  EXPECT_THAT(error_, HasSubstr("half: gate --max-kl failed"));
  auto kept = command;
  kept.back() = "1e9";
  EXPECT_EQ(run(kept), 0);
}

TEST_F(EvaluationProgramTest, PruneHasGatesToo) {
  const std::vector<std::string> command = {
      "prune", kTinyModel.string(), "--out", at("pruned"), "--method",    "magnitude", "--sparsity",
      "0.5",   "--seqlen",          "64",    "--gate",     at("own.u16"), "--max-kl"};
  auto strict = command;
  strict.push_back("1e-6");
  EXPECT_EQ(run(strict), 5);
  EXPECT_THAT(error_, HasSubstr("pruned: gate --max-kl failed"));
  EXPECT_THAT(error_, Not(HasSubstr("FAIL")));  // said once
  EXPECT_THAT(error_, Not(HasSubstr("Next:")));
  EXPECT_TRUE(std::filesystem::exists(at("pruned")));
  std::filesystem::remove_all(at("pruned"));
  auto loose = command;
  loose.push_back("1e6");
  EXPECT_EQ(run(loose), 0) << error_;
}

TEST_F(EvaluationProgramTest, PilotRecommendsACommand) {
  std::vector<std::string> command = {"pilot",
                                      kTinyModel.string(),
                                      "--text",
                                      at("own.u16"),
                                      "--method",
                                      "magnitude",
                                      "--pattern",
                                      "none",
                                      "--sparsity",
                                      "0.3",
                                      "--shrink",
                                      "0",
                                      "--quantize",
                                      "none",
                                      "--report",
                                      at("pilot.html"),
                                      "--max-perplexity-ratio"};
  auto loose = command, strict = command;
  loose.push_back("1000");
  ASSERT_EQ(run(loose), 0) << error_;
  EXPECT_THAT(out_, HasSubstr("Recommended:\n  swiftprune prune "));
  EXPECT_THAT(test::read_text(at("pilot.html")), HasSubstr("Recommended:"));
  strict.push_back("0.001");
  ASSERT_EQ(run(strict), 0) << error_;
  EXPECT_THAT(out_, StartsWith("None is recommended: no trial stays within"));
  EXPECT_THAT(out_, Not(HasSubstr("Recommended:")));
}

TEST_F(EvaluationProgramTest, TuneWritesAPlanThatPruneRuns) {
  const std::string model = kTinyModel.string();
  const std::vector<std::string> tune = {"tune",     model,       "--text", at("own.u16"),      "--seqlen",
                                         "64",       "--windows", "4",      "--search-windows", "4",
                                         "--trials", "9"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), tune.begin(), tune.end());
    return more;
  };
  ASSERT_EQ(run(with({"--sparsity", "0.6", "-o", at("tuned")})), 0) << error_;
  EXPECT_THAT(out_, HasSubstr("Recommended:\n  swiftprune prune "));
  EXPECT_THAT(out_, HasSubstr("60 % zeros: kept"));
  EXPECT_THAT(test::read_text(at("tuned/tune.html")), HasSubstr("Recommended"));
  const auto result = nlohmann::json::parse(test::read_text(at("tuned/tune.json")));
  EXPECT_TRUE(result["keeps_budget"]);
  EXPECT_GT(result["best"]["check_kl"], 0.0);
  ASSERT_EQ(run({"prune", model, "--plan", at("tuned/plan.json"), "--out", at("by_plan"), "--calibration",
                 at("own.u16"), "--seqlen", "64", "--windows", "4"}),
            0)
      << error_;
  // As near as whole weights of these small matrices come to it.
  EXPECT_THAT(out_, ::testing::ContainsRegex("sparsity +(59[.]9|60[.]0)"));
  EXPECT_THAT(test::read_text(at("tuned/tune.html")), HasSubstr("swiftprune pack PRUNED --out PACKED\n"));
  ASSERT_EQ(run({"pack", at("by_plan"), "--out", at("packed")}), 0) << error_;
  // The plan alone.
  ASSERT_EQ(run(with({"--sparsity", "0.6", "-o", at("alone.json"), "--json"})), 0) << error_;
  EXPECT_EQ(test::read_text(at("alone.json")), test::read_text(at("tuned/plan.json")));
  // The method's numbers, too.
  ASSERT_EQ(run(with({"--sparsity", "0.6", "-o", at("numbers"), "--method", "ria", "--select", "sort",
                      "--parameters", "exponent,windows"})),
            0)
      << error_;
  EXPECT_THAT(out_, HasSubstr("parameters  "));
  EXPECT_THAT(out_, HasSubstr("            windows 2: "));
  EXPECT_THAT(out_, HasSubstr(" --method ria --select sort "));
  EXPECT_THAT(test::read_text(at("numbers/tune.html")), HasSubstr("Parameters of the method"));
  const auto numbers = nlohmann::json::parse(test::read_text(at("numbers/tune.json")));
  EXPECT_GE(numbers["parameters"]["trials"].size(), 4u);

  const auto refused = [&](const std::vector<std::string>& more, int code, const std::string& text) {
    EXPECT_EQ(run(with(more)), code) << error_;
    EXPECT_THAT(error_, HasSubstr(text));
    EXPECT_EQ(std::count(error_.begin(), error_.end(), '\n'), 1) << error_;
  };
  refused({"-o", at("x")}, 2, "found none of --budget, --max-kl and --sparsity");
  refused({"-o", at("x"), "--sparsity", "0.5", "--budget", "3bits"}, 2, "found 2 of --budget");
  refused({"-o", at("x"), "--budget", "0tokens/s"}, 2, "expected a speed above 0");
  refused({"-o", at("x"), "--budget", "40tokens/s"}, 2, "there is nothing to prune");
  refused({"-o", at("x"), "--sparsity", "0.5", "--patterns", "block:4x4"}, 2, "--patterns: found block:4x4");
  refused({"-o", at("x"), "--sparsity", "0.5", "--parameters", "alpha,dampign"}, 2,
          "--parameters: found 'dampign', expected auto or some of alpha, beta, steps, windows");
  refused({"-o", at("x"), "--sparsity", "0.5", "--parameters", "damping"}, 2,
          "--parameters: found damping, which the method best has not");
  refused({"-o", at("x"), "--sparsity", "0.5", "--parameters", "ewma-beta"}, 2, "--select ewma brings it");
  refused({"-o", at("x"), "--sparsity", "0.5", "--method", "magnitude", "--parameters", "auto"}, 2,
          "--parameters: the method magnitude has none");
  refused({"-o", at("x"), "--budget", "40%"}, 2, "--sparsity 0.4");
  refused({"-o", at("x"), "--budget", "much"}, 2, "expected a size like 90MB");
  refused({"-o", at("x"), "--budget", "3bits", "--calibration", at("own.u16")}, 2,
          "--text: found beside --calibration");
  refused({"-o", at("tuned"), "--sparsity", "0.5"}, 3, "tuned");
  EXPECT_EQ(
      run({"tune", model, "--text", at("own.u16"), "--seqlen", "128", "--sparsity", "0.5", "-o", at("x")}),
      3);
  EXPECT_THAT(error_, HasSubstr("search and check"));
  EXPECT_FALSE(std::filesystem::exists(at("x")));
}

TEST_F(EvaluationProgramTest, TuneWritesAPlanOfLayersThatShrinkRuns) {
  const std::string model = kTinyModel.string();
  const std::vector<std::string> text = {"--calibration", at("own.u16"), "--seqlen", "64", "--windows", "4"};
  const auto with = [&](std::vector<std::string> command) {
    command.insert(command.end(), text.begin(), text.end());
    return command;
  };
  const auto tune = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"tune", model, "--search-windows", "4", "--trials", "9"});
    return with(std::move(more));
  };
  ASSERT_EQ(run(tune({"--units", "mlp", "--align", "4", "--ratio", "30%", "-o", at("tuned")})), 0) << error_;
  EXPECT_THAT(out_, HasSubstr("Recommended:\n  swiftprune shrink "));
  EXPECT_THAT(out_, HasSubstr("30 % of the blocks' weights gone: kept"));
  EXPECT_THAT(out_, HasSubstr(" layers at up to "));
  EXPECT_THAT(test::read_text(at("tuned/tune.html")), HasSubstr("swiftprune shrink "));
  const auto result = nlohmann::json::parse(test::read_text(at("tuned/tune.json")));
  EXPECT_GE(result["best"]["ratio"], 0.3 - 1e-9);
  const std::string plan = at("tuned/plan.json");
  ASSERT_EQ(run(with({"shrink", model, "--plan", plan, "--out", at("shrunk")})), 0) << error_;
  const auto record = nlohmann::json::parse(test::read_text(at("shrunk/swiftprune.json")));
  EXPECT_NEAR(record["ratio"].get<double>(), result["best"]["ratio"].get<double>(), 1e-9);
  ASSERT_EQ(run({"eval", at("shrunk"), "--text", at("own.u16"), "--seqlen", "64"}), 0) << error_;
  ASSERT_EQ(run(with({"shrink", model, "--plan", plan, "--out", at("none"), "--dry-run", "--json"})), 0)
      << error_;
  EXPECT_EQ(nlohmann::json::parse(out_)["parameters"]["shrunk"], record["parameters"]["shrunk"]);
  // A layer of two.
  ASSERT_EQ(run(tune({"--units", "layers", "--ratio", "0.5", "-o", at("layers.json")})), 0) << error_;
  ASSERT_EQ(run(with({"shrink", model, "--plan", at("layers.json"), "--out", at("shorter")})), 0) << error_;
  EXPECT_EQ(nlohmann::json::parse(test::read_text(at("shorter/config.json")))["num_hidden_layers"], 1);

  const auto refused = [&](const std::vector<std::string>& command, int code, const std::string& message) {
    EXPECT_EQ(run(command), code) << error_;
    EXPECT_THAT(error_, HasSubstr(message));
    EXPECT_EQ(std::count(error_.begin(), error_.end(), '\n'), 1) << error_;
  };
  refused(tune({"-o", at("x"), "--units", "mlp", "--ratio", "0.3", "--quantize", "int4"}), 2,
          "--quantize: found with --units");
  refused(tune({"-o", at("x"), "--units", "mlp", "--sparsity", "0.3"}), 2, "--sparsity: found with --units");
  refused(tune({"-o", at("x"), "--ratio", "0.3"}), 2, "--ratio: found without --units");
  refused(tune({"-o", at("x"), "--units", "mlp", "--ratio", "0.3", "--max-kl", "1"}), 2,
          "found 2 of --budget, --max-kl and --ratio");
  refused(tune({"-o", at("x"), "--units", "mlp", "--ratio", "0.9"}), 2,
          "--ratio: found 0.9, expected at most");
  refused(tune({"-o", at("x"), "--units", "experts", "--ratio", "0.3"}), 2, "--units");
  refused(tune({"-o", at("x"), "--units", "mlp", "--budget", "3bits"}), 2, "--budget: found with --units");
  refused(with({"shrink", model, "--plan", plan, "--out", at("x"), "--ratio", "0.3"}), 2,
          "--ratio: found it with --plan");
  refused(with({"shrink", model, "--plan", plan, "--out", at("x"), "--units", "mlp"}), 2,
          "--units: found it with --plan");
  refused(with({"shrink", SWIFTPRUNE_TEST_DATA "/model/llama3", "--plan", plan, "--out", at("x")}), 3,
          "the plan is of another model");
  refused(with({"shrink", model, "--plan", at("none.json"), "--out", at("x")}), 3, "none.json");
  refused(with({"prune", model, "--plan", plan, "--out", at("x")}), 3, "which shrink --plan runs");
  EXPECT_FALSE(std::filesystem::exists(at("x")));
}

TEST_F(EvaluationProgramTest, WrongInputIsRefused) {
  const std::string model = kTinyModel.string(), gate = "--max-kl";
  const auto refused = [&](const std::vector<std::string>& arguments, int code, const std::string& text) {
    EXPECT_EQ(run(arguments), code) << error_;
    EXPECT_THAT(error_, HasSubstr(text));
    EXPECT_EQ(std::count(error_.begin(), error_.end(), '\n'), 1) << error_;
  };
  test::write_text(at("empty.txt"), "");
  test::write_text(at("latin1.txt"), "caf\xe9");
  test::write_text(at("fields.jsonl"), "{\"text\": \"a\"}\n{\"body\": \"b\"}\n");
  refused({"eval", model}, 2, "found neither --text nor --task");
  refused({"eval", model, "--text", at("empty.txt"), "--seqlen", "8"}, 3, "empty");
  refused({"eval", model, "--text", at("latin1.txt"), "--seqlen", "8"}, 3, "expected UTF-8");
  refused({"eval", model, "--text", at("fields.jsonl"), "--seqlen", "8"}, 3, "line 2");
  refused({"eval", model, "--text", at("own.txt"), "--seqlen", "32", "--stride", "4"}, 2,
          "--convention strided");
  refused({"eval", model, "--task", at("fields.jsonl")}, 3, "fields.jsonl: line 1: field");
  refused({"compare", model, at("half"), "--prompts", at("own.txt"), gate, "1"}, 2, "found no measurement");
  for (const char* flag : {"--max-loops", "--max-length-change", "--min-exact"}) {
    refused({"compare", model, at("half"), "--text", at("own.u16"), flag, "0.5"}, 2, "expected --prompts");
  }
  refused({"compare", model, at("half"), "--prompts", at("own.txt"), "--min-exact", "0.5"}, 2,
          "found no question in --prompts");
  refused({"compare", model, at("half")}, 2, "expected at least one");
  refused({"compare", model, SWIFTPRUNE_TEST_DATA "/model/llama3", "--text", at("own.u16"), "--seqlen", "8"},
          3, "found a vocabulary of 64 tokens");
  refused({"prune", model, "--out", at("p"), gate, "1"}, 2, "expected --gate TEXT");
  refused({"prune", model, "--out", at("p"), "--gate", at("own.txt")}, 2, "found no limit");
  refused({"pilot", model, "--text", at("empty.txt")}, 3, "empty");
}

}  // namespace
}  // namespace swiftprune
