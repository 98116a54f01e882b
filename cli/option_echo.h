// What was asked of a command, taken from its parser, so that no option can be forgotten: the command that
// repeats a run, its record, and the identity that --resume compares.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace swiftprune::cli {

// By its long name without dashes; that of a positional argument as it is.
std::string plain_name(const CLI::Option& option);
// The arguments that give the option these results, as the parser keeps them.
void append_option(const CLI::Option& option, const std::vector<std::string>& results,
                   std::vector<std::string>& arguments);

// Only these do not change a byte of what a command writes; every other option does until it stands here.
inline constexpr std::string_view kByteNeutralOptions[] =
    {"--json",       "--quiet",  "--progress",     "--threads",
     "--gpu-memory", "--resume", "--dry-run",      "--report",
     "--markdown",   "--gate",   "--gate-windows", "--max-perplexity-ratio",
     "--min-top1",   "--max-kl", "--ranks",        "--rank-timeout",
     "--gpus",       "--init",   "--config",       "--from-config",
     "--log-file",   "--out",    "--timeline"};  // --out: the unfinished folder has its name already

// Where options came from, which stand among the others once they are read (config_file.h): not repeated.
inline constexpr std::string_view kOriginOptions[] = {"--config", "--from-config"};

// The arguments that parse to the same: "swiftprune", the command, its positional arguments, then every
// option that was given, in the order of its declaration.
std::vector<std::string> repeat_arguments(const CLI::App& command);
// Those of single options (long names) alone, without the command.
std::vector<std::string> repeat_options(const CLI::App& command,
                                        std::initializer_list<std::string_view> names);

// Every option by its long name without dashes, as given or else its default; numbers as numbers.
nlohmann::ordered_json option_values(const CLI::App& command);
// Those of them that can change what is written.
nlohmann::ordered_json byte_options(const CLI::App& command);
// For the record: {"arguments": repeat_arguments(), "options": option_values()}.
nlohmann::ordered_json command_record(const CLI::App& command);

}  // namespace swiftprune::cli
