// What each command's file offers: one function that declares the command, its flags and its help on the
// program. The command runs in the subcommand's callback; errors leave it as swiftprune::Error and main maps
// them to exit codes.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "checks.h"
#include "help_format.h"
#include "outputs.h"
#include "progress.h"
#include "swiftprune/checkpoint/model_location.h"
#include "swiftprune/core/run_context.h"

namespace swiftprune::cli {

void declare_import(CLI::App& program);
void declare_export(CLI::App& program);
void declare_families(CLI::App& program);
void declare_inspect(CLI::App& program);
void declare_verify(CLI::App& program);
void declare_prune(CLI::App& program);
void declare_methods(CLI::App& program);
void declare_shrink(CLI::App& program);
void declare_recover(CLI::App& program);
void declare_eval(CLI::App& program);
void declare_compare(CLI::App& program);
void declare_pilot(CLI::App& program);
void declare_tune(CLI::App& program);
void declare_generate(CLI::App& program);
void declare_chat(CLI::App& program);
void declare_bench(CLI::App& program);
void declare_serve(CLI::App& program);
void declare_pack(CLI::App& program);
void declare_unpack(CLI::App& program);
void declare_tokenize(CLI::App& program);
void declare_doctor(CLI::App& program);
void declare_completion(CLI::App& program);
void declare_man(CLI::App& program);

// The program with all of its commands.
std::unique_ptr<CLI::App> make_program();

// Another program that runs commands in its own process (python/): what would go to the terminal goes there.
// Commands are asked for JSON and say nothing else.
struct CommandHost {
  std::stop_token stop;
  ProgressFn progress;
  std::function<void(const nlohmann::ordered_json&)> result;
  std::function<void(const std::string&)> note;  // of print_note()
  std::function<void(const std::string&)> page;  // HTML, of give_page(); none: pages are not made
};
// Binds the host to the calling thread until the scope ends: before make_program(), around the parse.
class HostScope {
 public:
  explicit HostScope(const CommandHost& host);
  HostScope(const HostScope&) = delete;
  HostScope& operator=(const HostScope&) = delete;
  ~HostScope();
};

// A message in which GGUF files have the names that the user gave them, not those of the folders that stand for them.
std::string with_files_named(std::string message);

// What add_model_argument()'s models turned out to be.
struct LocatedModels {
  std::vector<std::shared_ptr<const GgufFolder>> made;  // stay until the command's options go
  std::map<std::string, std::string> given;             // folder -> as the user wrote it
};

// Flags that every command has, declared in one place: --json, --quiet, --progress, --threads,
// --log-file, --config.
struct CommonOptions {
  bool json = false;
  bool quiet = false;
  std::string progress = "auto";
  std::string log_file;
  std::string config;                    // its options are among the others already (config_file.h)
  std::vector<std::string> from_config;  // the names of those
  int threads = 0;
  bool runs_in_ranks = false;                                            // ranks.h
  std::vector<std::function<void(const CommonOptions&)>> locate_models;  // of add_model_argument()
  std::shared_ptr<LocatedModels> located = std::make_shared<LocatedModels>();
  const CLI::App* command = nullptr;  // for echoes of all its options (option_echo.h)
};
void add_common_options(CLI::App& command, CommonOptions& options);
inline constexpr const char* kModelHelp =
    "Model: a folder or id of Hugging Face (of its cache), or a .gguf file";
inline constexpr const char* kAnyModelHelp =
    "Model, dense or packed: a folder or id of Hugging Face (of its cache), or a .gguf file";
// A positional argument, or an option by its name, for models by folder, GGUF file, cache folder or id
// (checkpoint/model_location.h). apply() puts the folder to open in the place of what was given; the parser, and so
// echoes, and print_next() keep that.
CLI::Option* add_model_argument(CLI::App& command, CommonOptions& options, const char* name,
                                std::string& model, const char* description);
CLI::Option* add_model_argument(CLI::App& command, CommonOptions& options, const char* name,
                                std::vector<std::string>& models, const char* description);
// The model's name as it was given, for a folder that apply() put in its place; else the folder.
std::string as_given(const CommonOptions& options, const std::string& folder);
// The command's run, bound to this thread: stops with the program, has --threads, and shows its progress
// as --progress says (not with --quiet). Throws Error{kBadInput} for a model that is not there.
[[nodiscard]] RunScope apply(const CommonOptions& options);
// Does another program run the command (CommandHost)?
bool is_hosted();
// Does it want the page of a command that has one?
bool takes_page();
// The page, for a host that wants it.
void give_page(const std::function<std::string()>& make);
// Whether anyone reads notes: not with --quiet.
bool takes_notes(const CommonOptions& options);
// "note: TEXT" on standard error, unless --quiet.
void print_note(const CommonOptions& options, const std::string& text);
// The same as a function, for the library's jobs.
std::function<void(const std::string&)> notes_to(const CommonOptions& options);
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
