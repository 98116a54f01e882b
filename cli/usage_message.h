// What is wrong with a command line, in one message: what was found, what is expected, and what was likely meant.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace swiftprune::cli {

// "help prune", "prune help" and "version" as the options that do it.
std::vector<std::string> with_help_words(const CLI::App& program, std::vector<std::string> arguments);

// Of the program that failed to parse the arguments.
std::string usage_message(const CLI::App& program, const std::vector<std::string>& arguments,
                          const CLI::ParseError& error);

}  // namespace swiftprune::cli
