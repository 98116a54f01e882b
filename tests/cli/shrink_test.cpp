// shrink from the outside: channels and heads, experts, what cannot be.
#include <fstream>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "cli/program.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::Finished;
using test::ProgramTest;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Each step's record holds the ones before it, and compare names them all.
TEST_F(ProgramTest, ShrinksThenPrunesThenPacks) {
  const std::string text = ids(400);
  const std::vector<std::string> calibration = {"--ids", text, "--windows", "4", "--seqlen", "32"};
  std::vector<std::string> shrink = {"shrink",  model("llama2"), "-o",      at("shrunk"), "--ratio", "0.3",
                                     "--units", "mlp,heads",     "--align", "1",          "--json"};
  shrink.insert(shrink.end(), calibration.begin(), calibration.end());
  Finished result = run(shrink);
  ASSERT_EQ(result.exit_code, 0) << result.error;
  const auto shrunk = nlohmann::json::parse(result.out);
  EXPECT_GT(shrunk.at("seconds").at("total").get<double>(), 0.0);
  std::vector<std::string> prune = {"prune", at("shrunk"), "-o", at("pruned"), "--sparsity", "0.5"};
  prune.insert(prune.end(), calibration.begin(), calibration.end());
  result = run(prune);
  ASSERT_EQ(result.exit_code, 0) << result.error;
  result = run(
      {"pack", at("pruned"), "--out", at("packed"), "--quantize", "int8", "--quantize-embeddings", "int8"});
  ASSERT_EQ(result.exit_code, 0) << result.error;

  const auto record = nlohmann::json::parse(test::read_text(at("packed/swiftprune.json")));
  EXPECT_EQ(record.at("method"), "best");
  EXPECT_EQ(record.at("previous"), shrunk);
  result = run({"compare", model("llama2"), at("shrunk"), at("pruned"), at("packed"), "--ids", text,
                "--windows", "4", "--seqlen", "32", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  const auto report = nlohmann::json::parse(result.out);
  const auto steps = [&](std::size_t m) {
    std::vector<std::string> methods;
    if (!report.at("models")[m].contains("steps")) return methods;
    for (const auto& step : report.at("models")[m].at("steps")) methods.push_back(step.at("method"));
    return methods;
  };
  EXPECT_THAT(steps(0), IsEmpty());
  EXPECT_THAT(steps(1), ElementsAre("shrink"));
  EXPECT_THAT(steps(2), ElementsAre("shrink", "best"));
  EXPECT_THAT(steps(3), ElementsAre("shrink", "best", "pack int8, embeddings int8"));
  EXPECT_THAT(report.at("commands")[0].get<std::string>(), HasSubstr("swiftprune shrink "));
  EXPECT_THAT(report.at("commands")[0].get<std::string>(),
              HasSubstr("--ratio 0.3 --units mlp,heads --align 1"));
  EXPECT_THAT(report.at("commands")[1].get<std::string>(), HasSubstr("swiftprune prune "));
  EXPECT_EQ(report.at("commands").size(), 3u);  // each once, and compare itself
}

TEST_F(ProgramTest, ShrinkTakesExpertsOut) {
  const std::string dense = test::kExpertModels / "qwen3_moe", text = ids(400);
  const auto shrink = [&](const std::string& out, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"shrink", dense, "-o",        at(out), "--units",  "experts",
                                          "--ids",  text,  "--windows", "4",     "--seqlen", "32"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  const Finished result = run(shrink("fewer", {"--ratio", "0.4"}));
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.out, HasSubstr("4 of 7 in each of 2 layers, 3 a token, by ours"));
  const auto record = nlohmann::json::parse(test::read_text(at("fewer/swiftprune.json")));
  const auto& experts = record.at("experts");
  EXPECT_EQ(experts.at("left"), 4);
  EXPECT_EQ(experts.at("layers").size(), 2u);
  EXPECT_EQ(experts.at("layers")[0].at("kept").size() + experts.at("layers")[0].at("removed").size(), 7u);
  EXPECT_EQ(nlohmann::json::parse(test::read_text(at("fewer/config.json"))).at("num_local_experts"), 4);
  const Finished evaluated =
      run({"eval", at("fewer"), "--text", text, "--seqlen", "32", "--windows", "2", "--json"});
  EXPECT_EQ(evaluated.exit_code, 0) << evaluated.error;
  const auto perplexity = [](const Finished& of) {
    return nlohmann::json::parse(of.out).at("perplexity").get<double>();
  };
  // Packed experts are the same weights.
  ASSERT_EQ(run({"pack", at("fewer"), "--out", at("packed")}).exit_code, 0);
  const Finished packed =
      run({"eval", at("packed"), "--text", text, "--seqlen", "32", "--windows", "2", "--json"});
  ASSERT_EQ(packed.exit_code, 0) << packed.error;
  EXPECT_NEAR(perplexity(packed), perplexity(evaluated), 1e-2 * perplexity(evaluated));
  EXPECT_THAT(run({"inspect", at("fewer")}).out, HasSubstr("4 of 12 channels, 3 a token"));

  const auto refused = [&](const std::vector<std::string>& more, const std::string& message) {
    expect_refused(shrink("out", more), 2, message);
  };
  refused({}, "--ratio, --experts: found 0 of them, expected one");
  refused({"--ratio", "0.4", "--experts", "4"}, "found 2 of them");
  refused({"--experts", "2"}, "--experts: found a request that leaves 2 of 7 experts");
  refused({"--ratio", "0.9"}, "3 experts a token");
  refused({"--ratio", "0.4", "--align", "8"}, "--align: found it with --units experts");
  refused({"--ratio", "0.4", "--compensate", "bias"}, "found bias, expected none or refit");
  refused({"--ratio", "0.4", "--compensate", "aligned"}, "expected of experts auto, none, bias or refit");
  refused({"--ratio", "0.4", "--score", "wanda-sp"}, "expected of experts one of ours, reap");
  expect_refused({"shrink", model("llama2"), "-o", at("out"), "--ratio", "0.2", "--experts", "4"}, 2,
                 "--experts: found it with --units mlp");
  expect_refused({"shrink", model("llama2"), "-o", at("out"), "--ratio", "0.2", "--units", "experts"}, 2,
                 "a model of the family llama has none of");
}

TEST_F(ProgramTest, ShrinkRefusesWhatCannotBe) {
  const std::string text = ids(400);
  const auto shrink = [&](const std::string& name, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"shrink", name,        "-o", at("out"),  "--ids",
                                          text,     "--windows", "2",  "--seqlen", "32"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  const auto refused = [&](const std::string& name, const std::vector<std::string>& more, int code,
                           const std::string& message) {
    expect_refused(shrink(model(name), more), code, message);
  };
  refused("llama2", {}, 2, "--ratio, --target-params, --target-ms: found 0 of them, expected one");
  refused("llama2", {"--ratio", "1"}, 2, "--ratio: found 1, expected more than 0 and less than 1");
  refused("llama2", {"--ratio", "nan"}, 2, "--ratio: found 'nan'");
  refused("llama2", {"--ratio", "0.9"}, 2, "at least 32 channels (--align), one head group and one layer");
  refused("llama2", {"--ratio", "0.45", "--units", "heads"}, 2, "at least one head group and one layer");
  refused("llama2", {"--ratio", "0.2", "--align", "4096"}, 2,
          "--align: found 4096, expected at most the MLP's width");
  refused("mistral", {"--ratio", "0.1", "--units", "heads"}, 2,
          "share one key head, and a group goes as a whole; possible: mlp, layers");
  refused("pythia", {"--ratio", "0.1", "--units", "heads"}, 2, "has no head_dim in config.json");
  refused("phi3_longrope", {"--ratio", "0.1", "--units", "mlp,heads"}, 2, "possible: mlp, layers");
  refused("llama2", {"--ratio", "0.2", "--units", "rows"}, 2,
          "--units: found 'rows', expected mlp, heads, layers");
  refused("llama2", {"--ratio", "0.2", "--score", "luck"}, 2, "--score: found 'luck'");
  refused("llama2", {"--ratio", "0.2", "--compensate", "luck"}, 2, "--compensate: found 'luck'");
  refused("gemma3_text", {"--ratio", "0.2", "--align", "1", "--compensate", "bias"}, 2,
          "knows no bias there; expected none, refit or aligned");
  refused("llama2", {"--target-params", "5"}, 2, "--target-params: found 5, expected between");
  // Found before any work, the text included.
  fs::create_directory(at("full"));
  std::ofstream(at("full/file")) << "x";
  expect_refused({"shrink", model("llama2"), "-o", at("full"), "--ratio", "0.2", "--ids", at("missing.u16")},
                 3, "not empty");
  ASSERT_EQ(run({"prune", model("llama3"), "-o", at("zeros"), "--method", "magnitude"}).exit_code, 0);
  ASSERT_EQ(run({"pack", at("zeros"), "--out", at("packed")}).exit_code, 0);
  expect_refused({"shrink", at("packed"), "-o", at("out"), "--ratio", "0.2", "--ids", at("missing.u16")}, 3,
                 "a packed model cannot be shrunk; make it dense first: swiftprune unpack");
}

}  // namespace
}  // namespace swiftprune
