// swiftprune completion and swiftprune man: files for the shell and for man, from the option parser.
#include <filesystem>

#include <fmt/format.h>

#include "command.h"
#include "shell_files.h"
#include "swiftprune/report/comparison.h"

namespace swiftprune::cli {
namespace {

void write_manual(const CLI::App& program, const std::filesystem::path& folder, bool markdown) {
  std::filesystem::create_directories(folder);
  if (markdown) {
    write_report((folder / "index.md").string(), markdown_page(program, nullptr));
    for (const CLI::App* command : commands_of(program))
      write_report((folder / (command->get_name() + ".md")).string(), markdown_page(program, command));
    return;
  }
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
      ->transform(one_of(std::vector<std::string>(std::begin(kShells), std::end(kShells))));
  command->footer(
      "Examples:\n"
      "  source <(swiftprune completion bash)\n"
      "  swiftprune completion fish > ~/.config/fish/completions/swiftprune.fish");
  command->callback([shell, &program] { fmt::print("{}", completion_script(program, *shell)); });
}

void declare_man(CLI::App& program) {
  struct Flags {
    std::string folder, format = "man";
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      program.add_subcommand("man", "Write the manual pages, one for each command, into a folder");
  command->add_option("FOLDER", flags->folder, "Where the pages go, such as ~/.local/share/man/man1")
      ->required();
  command->add_option("--format", flags->format, "man, or markdown, as the docs' site has them")
      ->capture_default_str()
      ->transform(one_of({"man", "markdown"}));
  command->footer("Example: swiftprune man ~/.local/share/man/man1 && man swiftprune-prune");
  command->callback([flags, &program] { write_manual(program, flags->folder, flags->format == "markdown"); });
}

}  // namespace swiftprune::cli
