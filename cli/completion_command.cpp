// swiftprune completion and swiftprune man: files for the shell and for man, from the option parser.
#include <filesystem>

#include <fmt/format.h>

#include "command.h"
#include "shell_files.h"
#include "swiftprune/report/comparison.h"

namespace swiftprune::cli {
namespace {

void write_manual(const CLI::App& program, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  write_report((folder / "swiftprune.1").string(), manual_page(program, nullptr));
  for (const CLI::App* command : commands_of(program)) {
    write_report((folder / fmt::format("swiftprune-{}.1", command->get_name())).string(),
                 manual_page(program, command));
  }
}

}  // namespace

void declare_completion(CLI::App& program) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = program.add_subcommand("completion", "Print a completion script for bash, zsh or fish");
  command->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember(std::vector<std::string>(std::begin(kShells), std::end(kShells))));
  command->footer(
      "Examples:\n"
      "  source <(swiftprune completion bash)\n"
      "  swiftprune completion fish > ~/.config/fish/completions/swiftprune.fish");
  command->callback([shell, &program] { fmt::print("{}", completion_script(program, *shell)); });
}

void declare_man(CLI::App& program) {
  auto folder = std::make_shared<std::string>();
  CLI::App* command =
      program.add_subcommand("man", "Write the manual pages, one for each command, into a folder");
  command->add_option("FOLDER", *folder, "Where the pages go, such as ~/.local/share/man/man1")->required();
  command->footer("Example: swiftprune man ~/.local/share/man/man1 && man swiftprune-prune");
  command->callback([folder, &program] { write_manual(program, *folder); });
}

}  // namespace swiftprune::cli
