#include "shell_files.h"

#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "command.h"
#include "suggestions.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace swiftprune::cli {
namespace {

using ::testing::HasSubstr;

TEST(ShellFiles, EveryOptionOfEveryCommandIsInEveryScriptAndPage) {
  const auto program = make_program();
  for (const std::string_view shell : kShells) {
    const std::string script = completion_script(*program, shell);
    for (const CLI::App* command : commands_of(*program)) {
      EXPECT_THAT(script, HasSubstr(command->get_name()));
      for (const CLI::Option* option : command->get_options()) {
        if (option->get_group().empty()) continue;  // hidden: the program writes it for itself
        for (const std::string& name : option->get_lnames()) EXPECT_THAT(script, HasSubstr(name)) << shell;
      }
    }
  }
  EXPECT_THAT(manual_page(*program, nullptr), HasSubstr("swiftprune\\-prune"));
  const std::string page = manual_page(*program, program->get_subcommand("prune"));
  EXPECT_THAT(page, HasSubstr(".TH SWIFTPRUNE\\-PRUNE 1"));
  EXPECT_THAT(page, HasSubstr("\\-\\-sparsity"));
  const std::string markdown = markdown_page(*program, program->get_subcommand("prune"));
  EXPECT_THAT(markdown, HasSubstr("\n| `-q` `--quiet` | No progress"));
  EXPECT_THAT(markdown, HasSubstr(". Values: `auto`, `f32`, `bf16`. Default: `auto` |\n"));
  EXPECT_THAT(markdown_page(*program, nullptr), HasSubstr("| [`prune`](prune.md) |"));
  test::expect_error(
      ErrorKind::kUsage, [&] { completion_script(*program, "tcsh"); }, "bash, zsh, fish");
}

// What the shell itself answers.
TEST(ShellFiles, BashCompletesCommandsOptionsAndValues) {
  if (std::system("command -v bash > /dev/null") != 0) GTEST_SKIP() << "no bash";
  const test::TempDir folder;
  test::write_text(folder.path() / "script", completion_script(*make_program(), "bash"));
  const auto complete = [&](const std::string& words, int position) {
    const std::string command = fmt::format(
        "bash -c 'source {0}/script; COMP_WORDS=({1}); COMP_CWORD={2}; _swiftprune; echo "
        "\"${{COMPREPLY[*]}}\"' "
        "> {0}/out",
        folder.path().string(), words, position);
    EXPECT_EQ(std::system(command.c_str()), 0);
    return test::read_text(folder.path() / "out");
  };
  EXPECT_EQ(complete("swiftprune pr", 1), "prune\n");
  EXPECT_EQ(complete("swiftprune prune --spars", 2), "--sparsity\n");
  EXPECT_EQ(complete("swiftprune eval m --compute b", 4), "bf16\n");
  EXPECT_EQ(complete("swiftprune prune m --method wan", 4), "wanda\n");
  EXPECT_EQ(complete("swiftprune help qua", 2), "quantize\n");
  // Files, by the shell itself: a model, and the value of an option.
  EXPECT_EQ(complete("swiftprune prune \"\"", 2), "\n");
  EXPECT_EQ(complete("swiftprune prune m --out \"\"", 4), "\n");
}

// Read as the README says, and found by its name in a folder of functions.
TEST(ShellFiles, ZshTakesTheScriptBothWays) {
  if (std::system("command -v zsh > /dev/null") != 0) GTEST_SKIP() << "no zsh";
  const test::TempDir folder;
  test::write_text(folder.path() / "_swiftprune", completion_script(*make_program(), "zsh"));
  for (const char* way : {"autoload -Uz compinit; compinit -u -D; source $F/_swiftprune",
                          "fpath=($F $fpath); autoload -Uz compinit; compinit -u -D"}) {
    const std::string command = fmt::format("F={0} zsh -fc '{1}; print $_comps[swiftprune]' > {0}/out 2>&1",
                                            folder.path().string(), way);
    EXPECT_EQ(std::system(command.c_str()), 0);
    EXPECT_EQ(test::read_text(folder.path() / "out"), "_swiftprune\n");
  }
}

TEST(Suggestions, NearNamesOnly) {
  EXPECT_EQ(edit_distance("sparcity", "sparsity"), 1);
  EXPECT_EQ(edit_distance("prnue", "prune"), 1);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(nearest("prun", {"prune", "pilot"}), "prune");
  EXPECT_EQ(nearest("xyzzy", {"prune", "pilot"}), "");
}

}  // namespace
}  // namespace swiftprune::cli
