// Options from a file, through the program: what wins, what is refused, what the record says; and the log.
#include "config_file.h"

#include "cli/program.h"
#include "support/expect_error.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using cli::with_config;
using test::expect_error;
using test::Finished;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

class ConfigFile : public test::ProgramTest {
 protected:
  std::vector<std::string> with(const std::string& text, std::vector<std::string> arguments) {
    test::write_text(file(), text);
    arguments.insert(arguments.end(), {"--config", file()});
    std::vector<std::string> merged = with_config(arguments);
    std::erase_if(merged, [&](const std::string& word) { return word == "--config" || word == file(); });
    return merged;
  }
  void refused(const std::string& text, const std::string& message, ErrorKind kind = ErrorKind::kUsage) {
    expect_error(kind, [&] { with(text, {"prune", "m", "-o", "o"}); }, {file(), message});
  }
  std::string file() const { return at("run.toml"); }
};

TEST_F(ConfigFile, TheCommandLineWins) {
  EXPECT_THAT(
      with("sparsity = 0.3\nwindows = 4  # of calibration\n", {"prune", "m", "-o", "o", "--windows", "8"}),
      ElementsAre("prune", "m", "--out", "o", "--windows", "8", "--sparsity", "0.3",
                  "--from-config=sparsity"));
  // Positional arguments and required options, too; sections of other commands are for them.
  EXPECT_THAT(
      with("[prune]\nMODEL = \"a model\"\nout = 'o'\nskip = [\"*.a\", \"*.b\"]\n[eval]\nwindows = 2\n",
           {"prune"}),
      ElementsAre("prune", "a model", "--out", "o", "--skip", "*.a", "--skip", "*.b", "--from-config=MODEL",
                  "--from-config=out", "--from-config=skip"));
  EXPECT_THAT(with("json = true\nresume = false\n", {"prune", "m", "-o", "o"}), Contains("--json"));
  EXPECT_THAT(with("MODEL = 'other'\n", {"prune", "m", "-o", "o"}), Not(Contains("other")));
}

TEST_F(ConfigFile, WhatItDoesNotUnderstandIsRefused) {
  refused("sparcity = 0.3\n", "found 'sparcity', expected an option of prune");
  refused("sparcity = 0.3\n", "did you mean sparsity?");
  refused("config = 'other.toml'\n", "found 'config'");
  refused("from-config = 'x'\n", "found 'from-config'");
  refused("[prun]\nsparsity = 0.3\n", "found the section [prun]");
  refused("[eval]\nsparsity = 0.3\n", "expected an option of eval");
  refused("sparsity = much\n", "much");
  refused("sparsity 0.3\n", "found the section [sparsity 0]");
  refused("{\"sparsity\": 0.3}", "found no command", ErrorKind::kBadInput);
  refused("{\"command\": {\"arguments\": [\"swiftprune\", \"shrink\", \"m\"]}}",
          "found the record of shrink");
  expect_error(
      ErrorKind::kBadInput,
      [&] {
        with_config({"prune", "m", "--config", at("none.toml")});
      },
      "none.toml");
  expect_refused({"prune", model("llama2"), "-o", at("out"), "--config", at("none.toml")}, 3, "none.toml");
}

TEST_F(ConfigFile, ARecordIsOne) {
  const std::string text = ids(400);
  ASSERT_EQ(run({"prune", model("llama2"), "-o", at("first"), "--method", "wanda", "--ids", text, "--windows",
                 "2", "--seqlen", "32", "--sparsity", "0.3", "-q"})
                .exit_code,
            0);
  const Finished again =
      run({"prune", "--config", at("first/swiftprune.json"), "-o", at("second"), "--log-file", at("log")});
  ASSERT_EQ(again.exit_code, 0) << again.error;
  EXPECT_EQ(test::read_text(at("first/model.safetensors")), test::read_text(at("second/model.safetensors")));
  const Json record = Json::parse(test::read_text(at("second/swiftprune.json")));
  const Json& options = record["command"]["options"];
  EXPECT_EQ(options["config"], at("first/swiftprune.json"));
  EXPECT_THAT(options["from-config"], Contains("sparsity"));
  EXPECT_THAT(options["from-config"], Not(Contains("out")));
  // The command that is recorded needs no file.
  EXPECT_THAT(record["command"]["arguments"], Contains("--sparsity"));
  EXPECT_THAT(record["command"]["arguments"], Not(Contains("--config")));

  const std::string log = test::read_text(at("log"));
  for (const char* line :
       {"begins: swiftprune prune ", "first/swiftprune.json: MODEL", "prune: ", "ends with exit code 0"})
    EXPECT_THAT(log, HasSubstr(line));
}

TEST_F(ConfigFile, ALogHasFaultsAndGrows) {
  const std::vector<std::string> wrong = {"eval", at("nowhere"), "--ids", ids(100), "--log-file", at("log")};
  EXPECT_EQ(run(wrong).exit_code, 3);
  const std::string once = test::read_text(at("log"));
  EXPECT_THAT(once, HasSubstr("Z swiftprune: "));
  EXPECT_THAT(once, HasSubstr("ends with exit code 3"));
  EXPECT_EQ(run(wrong).exit_code, 3);
  EXPECT_TRUE(test::read_text(at("log")).starts_with(once));
  EXPECT_EQ(run({"families", "--log-file", at("no/where")}).exit_code, 2);
}

}  // namespace
}  // namespace swiftprune
