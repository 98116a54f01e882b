// What each command's file offers: one function that declares the command, its flags and its help on the
// program. The command runs in the subcommand's callback; errors leave it as swiftprune::Error and main maps
// them to exit codes.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "swiftprune/core/progress.h"

namespace swiftprune::cli {

void declare_import(CLI::App& program);
void declare_inspect(CLI::App& program);
void declare_verify(CLI::App& program);
void declare_prune(CLI::App& program);
void declare_eval(CLI::App& program);
void declare_compare(CLI::App& program);
void declare_pilot(CLI::App& program);
void declare_generate(CLI::App& program);
void declare_bench(CLI::App& program);
void declare_serve(CLI::App& program);
void declare_pack(CLI::App& program);
void declare_unpack(CLI::App& program);
void declare_tokenize(CLI::App& program);

// Flags that every command has, declared in one place: --json, --threads, --quiet.
struct CommonOptions {
  bool json = false;
  bool quiet = false;
  int threads = 0;
};
void add_common_options(CLI::App& command, CommonOptions& options);
void apply(const CommonOptions& options);

// Draws one line with percent and time left on a terminal; draws nothing elsewhere or when quiet.
ProgressFn terminal_progress(const CommonOptions& options);

// One JSON document on stdout.
void print_json(const nlohmann::ordered_json& document);
// "500MB", "5 GB" or a plain number of bytes (units of 1000); Error{kUsage} naming the flag otherwise.
std::uint64_t parse_bytes(std::string_view flag, std::string_view text);
// "269.1 MB"
std::string human_bytes(double bytes);

}  // namespace swiftprune::cli
