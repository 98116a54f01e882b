// Every command that the program prints as "the one that repeats it" is typed into a shell again, and gives
// the same bytes.
#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "evaluation/pruned_copy.h"
#include "swiftprune/report/comparison.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::Finished;
using test::read_text;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class RepeatTest : public test::ProgramTest {
 protected:
  RepeatTest() {
    // Names that a shell would take apart.
    fs::create_directory(at("it's mine"));
    fs::copy(model("llama2"), at("it's mine/dense"));
    fs::rename(ids(700), text());
  }
  std::string text() const { return at("it's mine/$HOME *.u16"); }
  std::string dense() const { return at("it's mine/dense"); }
  std::string out() const { return at("it's mine/out"); }
  std::vector<std::string> calibration() const {
    return {"--ids", text(), "--windows", "4", "--seqlen", "32"};
  }

  Finished run_with(std::vector<std::string> arguments, const std::vector<std::string>& more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
  // As a person would paste it; the program is found by its name.
  int paste(const std::string& line) {
    const fs::path folder = fs::path(SWIFTPRUNE_PROGRAM).parent_path();
    const std::string shell =
        shell_command(std::vector<std::string>{"PATH=" + folder.string() + ":/bin:/usr/bin"});
    const int status =
        std::system(("export " + shell + "; " + line + " >" + shell_command(std::vector{at("pasted")}) +
                     " 2>" + shell_command(std::vector{at("pasted.err")}))
                        .c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // The command of the record in `folder`, run again to the same place, gives these files byte for byte.
  void expect_repeats(const std::vector<std::string>& files, int exit_code = 0) {
    const json record = json::parse(read_text(out() + "/swiftprune.json"));
    const auto arguments = record.at("command").at("arguments").get<std::vector<std::string>>();
    fs::rename(out(), at("first"));
    EXPECT_EQ(paste(shell_command(arguments)), exit_code) << read_text(at("pasted.err"));
    for (const std::string& file : files) {
      EXPECT_TRUE(read_text(out() + "/" + file) == read_text(at("first/" + file))) << file;
    }
    const json again = json::parse(read_text(out() + "/swiftprune.json"));
    EXPECT_EQ(again.at("command"), record.at("command"));
  }
};

TEST_F(RepeatTest, Prune) {
  const Finished result = run_with({"prune", dense(), "-o", out(), "--select", "sort", "--propagate", "dense",
                                    "--override", "*layers.0.*q_proj.weight", "score=magnitude,refine=none",
                                    "--skip", "*.o_proj.weight", "--sparsity", "0.4", "--seed", "7", "-q"},
                                   calibration());
  ASSERT_EQ(result.exit_code, 0) << result.error;
  expect_repeats({"model.safetensors", "plan.json"});
}

TEST_F(RepeatTest, PruneWithAGateAndAPlan) {
  ASSERT_EQ(run_with({"prune", dense(), "-o", at("made"), "--sparsity", "0.3"}, calibration()).exit_code, 0);
  const Finished result = run_with({"prune", dense(), "-o", out(), "--plan", at("made/plan.json"), "--gate",
                                    text(), "--gate-windows", "2", "--max-kl", "1e-9"},
                                   calibration());
  ASSERT_EQ(result.exit_code, 5) << result.error;
  expect_repeats({"model.safetensors", "plan.json"}, 5);
}

TEST_F(RepeatTest, Shrink) {
  const Finished result =
      run_with({"shrink", dense(), "-o", out(), "--ratio", "0.3", "--units", "mlp,heads", "--align", "1",
                "--non-uniform", "--score", "flap", "--widths-by", "score"},
               calibration());
  ASSERT_EQ(result.exit_code, 0) << result.error;
  expect_repeats({"model.safetensors", "config.json"});
}

TEST_F(RepeatTest, CompareAndTheModelsThatItShows) {
  ASSERT_EQ(run_with({"prune", dense(), "-o", out(), "--method", "fast"}, calibration()).exit_code, 0);
  const Finished result =
      run({"compare", dense(), out(), "--text", text(), "--seqlen", "32", "--windows", "3", "--error-tokens",
           "64", "--max-kl", "100", "--report", at("my page.html"), "--json", "--compute", "f32"});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  const json report = json::parse(result.out);
  const auto commands = report.at("commands").get<std::vector<std::string>>();
  ASSERT_EQ(commands.size(), 2u);
  fs::remove(at("my page.html"));
  EXPECT_EQ(paste(commands[1]), 0) << read_text(at("pasted.err"));
  EXPECT_THAT(read_text(at("my page.html")), StartsWith("<!DOCTYPE html>"));
  const json again = json::parse(read_text(at("pasted")));
  EXPECT_EQ(again.at("commands"), report.at("commands"));
  for (const char* key : {"perplexity", "divergence", "block_errors"})
    EXPECT_EQ(again.at("models")[1].at(key), report.at("models")[1].at(key)) << key;
  fs::rename(out(), at("first"));
  EXPECT_EQ(paste(commands[0]), 0) << read_text(at("pasted.err"));
  EXPECT_TRUE(read_text(out() + "/model.safetensors") == read_text(at("first/model.safetensors")));
}

TEST_F(RepeatTest, PilotAndWhatItRecommends) {
  fs::rename(text(), at("short"));
  test::write_text(text(), read_text(at("short")) + read_text(at("short")));
  const Finished result = run({"pilot",    dense(),
                               "--text",   text(),
                               "--method", "magnitude",
                               "fast",     "--sparsity",
                               "0.3",      "--pattern",
                               "2:4",      "--calibration-tokens",
                               "128",      "--evaluation-tokens",
                               "256",      "--shrink",
                               "0",        "--quantize",
                               "none",     "--compute",
                               "f32",      "--field",
                               "body",     "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  const json report = json::parse(result.out);
  const auto commands = report.at("commands").get<std::vector<std::string>>();
  EXPECT_THAT(commands.back(), HasSubstr("--calibration-tokens 128 --evaluation-tokens 256"));
  EXPECT_EQ(paste(commands.back()), 0) << read_text(at("pasted.err"));
  const json again = json::parse(read_text(at("pasted")));
  ASSERT_EQ(again.at("models").size(), report.at("models").size());
  for (std::size_t m = 0; m < report.at("models").size(); ++m) {
    for (const char* key : {"name", "perplexity", "sparsity"})
      EXPECT_EQ(again.at("models")[m].at(key), report.at("models")[m].at(key));
  }
  // The prune commands run as they are, options of the pilot's own included.
  for (std::size_t c = 0; c + 1 < commands.size(); ++c) {
    EXPECT_THAT(commands[c], HasSubstr("--field body --compute f32"));
    EXPECT_EQ(paste("cd " + shell_command(std::vector{at("it's mine")}) + "; " + commands[c]), 0)
        << read_text(at("pasted.err"));
    ASSERT_TRUE(fs::exists(at("it's mine/PRUNED")));
    fs::remove_all(at("it's mine/PRUNED"));
  }
}

}  // namespace
}  // namespace swiftprune
