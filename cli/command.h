// What each command's file offers: one function that declares the command, its flags and its help on the
// program. The command runs in the subcommand's callback; errors leave it as swiftprune::Error and main maps
// them to exit codes.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "help_format.h"
#include "outputs.h"
#include "swiftprune/core/run_context.h"

namespace swiftprune::cli {

void declare_import(CLI::App& program);
void declare_export(CLI::App& program);
void declare_families(CLI::App& program);
void declare_inspect(CLI::App& program);
void declare_verify(CLI::App& program);
void declare_prune(CLI::App& program);
void declare_shrink(CLI::App& program);
void declare_eval(CLI::App& program);
void declare_compare(CLI::App& program);
void declare_pilot(CLI::App& program);
void declare_generate(CLI::App& program);
void declare_bench(CLI::App& program);
void declare_serve(CLI::App& program);
void declare_pack(CLI::App& program);
void declare_unpack(CLI::App& program);
void declare_tokenize(CLI::App& program);

// The program with all of its commands.
std::unique_ptr<CLI::App> make_program();

// Flags that every command has, declared in one place: --json, --threads, --quiet.
struct CommonOptions {
  bool json = false;
  bool quiet = false;
  int threads = 0;
  const CLI::App* command = nullptr;  // for echoes of all its options (option_echo.h)
};
void add_common_options(CLI::App& command, CommonOptions& options);
// The command's run, bound to this thread: stops with the program, has --threads, and draws one line with
// percent and time left on a terminal (nothing elsewhere or with --quiet).
[[nodiscard]] RunScope apply(const CommonOptions& options);
// Takes a progress line that still stands away, before something else is printed on standard error.
void clear_progress();
// "note: TEXT" on standard error, unless --quiet.
void print_note(const CommonOptions& options, const std::string& text);
// The commands that come next, each as its arguments, on standard error, unless --quiet.
void print_next(const CommonOptions& options, const std::vector<std::vector<std::string>>& commands);

// A note a line.
void print_notes(const CommonOptions& options, std::span<const std::string> notes);

// One JSON document on stdout.
void print_json(const nlohmann::ordered_json& document);
// "500MB", "5 GB" or a plain number of bytes (units of 1000); Error{kUsage} naming the flag otherwise.
std::uint64_t parse_bytes(std::string_view flag, std::string_view text);
// "269.1 MB"
std::string human_bytes(double bytes);

}  // namespace swiftprune::cli
