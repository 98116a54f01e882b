// Completion scripts, manual pages and the reference of the docs, made from the option parser, so that they cannot name what is not there.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

namespace swiftprune::cli {

inline constexpr std::string_view kShells[] = {"bash", "zsh", "fish"};

// A script that the shell reads. Commands, their options and values of a fixed set; files elsewhere.
std::string completion_script(const CLI::App& program, std::string_view shell);

// In man's own format: of the program when `command` is null, else of the command, "swiftprune-prune(1)".
std::string manual_page(const CLI::App& program, const CLI::App* command);

// The same in Markdown, for the docs' site: "prune.md", "index.md" of the program with links to the commands' pages.
std::string markdown_page(const CLI::App& program, const CLI::App* command);

// The values that an option takes where it takes no others, as the parser names them; else none.
std::vector<std::string> values_of(const CLI::Option& option);

// The program's commands, in the order of its help.
std::vector<const CLI::App*> commands_of(const CLI::App& program);
// Null where there is none of that name.
const CLI::App* find_command(const CLI::App& program, const std::string& name);

}  // namespace swiftprune::cli
