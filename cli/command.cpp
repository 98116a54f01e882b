#include "command.h"

#include <cctype>
#include <charconv>
#include <cstdio>
#include <map>
#include <memory>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "colour.h"
#include "log_file.h"
#include "option_echo.h"
#include "option_table.h"
#include "signals.h"
#include "swiftprune/core/error.h"
#include "swiftprune/ranks/launched.h"
#include "swiftprune/report/comparison.h"
#include "version.h"

namespace swiftprune::cli {
namespace {

thread_local const CommandHost* current_host = nullptr;
// Folders that stand for GGUF files, by the files' names as the user wrote them.
thread_local std::map<std::string, std::string> files_of_folders;

void locate(const CommonOptions& options, std::string& model) {
  const std::string given = model;
  LocatedModel found = locate_model(given);
  model = found.folder.string();
  if (model != given) options.located->given[model] = given;
  if (found.gguf == nullptr) return;
  files_of_folders[model] = given;
  print_notes(options, found.gguf->notes());
  options.located->made.push_back(std::move(found.gguf));
}

}  // namespace

std::string with_files_named(std::string message) {
  for (const auto& [folder, file] : files_of_folders) {
    for (std::size_t at = 0; (at = message.find(folder, at)) != std::string::npos; at += file.size())
      message.replace(at, folder.size(), file);
  }
  return message;
}

HostScope::HostScope(const CommandHost& host) {
  expect(current_host == nullptr, "one host of a thread");
  current_host = &host;
}

HostScope::~HostScope() { current_host = nullptr; }

namespace {

// A script's variable that is not set is no number and no name; a text to continue may be empty.
void add_checks(CLI::App& command) {
  for (CLI::Option* option : command.get_options()) {
    const std::string_view type = type_of(*option);
    if (type == "int" || type == "float") option->check(a_number(type == "int"));
    if (type == "text" && option->get_required() && !option->check_lname("prompt")) option->check(a_name());
  }
}

}  // namespace

std::unique_ptr<CLI::App> make_program() {
  auto program = std::make_unique<CLI::App>(
      "swiftprune: makes a language model smaller and faster, on the machine you have");
  program->formatter(std::make_shared<HelpFormat>());
  program->set_version_flag("-V,--version", [] { return version_text(); });
  program->require_subcommand(1);
  program->footer(
      "swiftprune help COMMAND shows its options, with an example. Start: swiftprune inspect MODEL");
  for (auto* declare :
       {declare_families, declare_import,     declare_export,   declare_inspect, declare_prune,
        declare_methods,  declare_shrink,     declare_recover,  declare_eval,    declare_compare,
        declare_pilot,    declare_tune,       declare_generate, declare_chat,    declare_bench,
        declare_serve,    declare_tokenize,   declare_verify,   declare_pack,    declare_unpack,
        declare_doctor,   declare_completion, declare_man}) {
    declare(*program);
  }
  for (CLI::App* command : program->get_subcommands({})) add_checks(*command);
  return program;
}

void add_common_options(CLI::App& command, CommonOptions& options) {
  options.command = &command;
  // Not as flags that were given: records do not tell who ran the command.
  options.json = options.quiet = current_host != nullptr;
  command.add_flag("--json", options.json, "Print the result as one JSON document on standard output");
  command.add_flag("-q,--quiet", options.quiet, "No progress and no hints on standard error");
  add_progress_option(command, options.progress);
  command.add_option("--threads", options.threads, "Threads (0: one per core)")->check(in_range(0, 4096));
  command.add_option("--log-file", options.log_file,
                     "Add what happens to this file: the command, stages, notes, faults, with date and time");
  command.add_option(
      "--config", options.config,
      "Options from a file: TOML (KEY = VALUE, also in sections [COMMAND]), or the swiftprune.json of a "
      "run, whose options are taken; what is given here wins");
  command
      .add_option("--from-config", options.from_config,
                  "Which options came from --config: written by the program")
      ->group("");
}

CLI::Option* add_model_argument(CLI::App& command, CommonOptions& options, const char* name,
                                std::string& model, const char* description) {
  options.locate_models.push_back([&model](const CommonOptions& common) { locate(common, model); });
  return command.add_option(name, model, description);
}

CLI::Option* add_model_argument(CLI::App& command, CommonOptions& options, const char* name,
                                std::vector<std::string>& models, const char* description) {
  options.locate_models.push_back([&models](const CommonOptions& common) {
    for (std::string& model : models) locate(common, model);
  });
  return command.add_option(name, models, description);
}

std::string as_given(const CommonOptions& options, const std::string& folder) {
  const auto given = options.located->given.find(folder);
  return given == options.located->given.end() ? folder : given->second;
}

RunScope apply(const CommonOptions& options) {
  if (const auto launched = options.runs_in_ranks ? std::nullopt : launched_rank()) {
    bad_usage(
        "{}: found {} processes that {} started, expected one: several do only prune, quantize, shrink, "
        "tune, eval and compare; to run it "
        "in each by itself, unset {}",
        options.command->get_name(), launched->size, launched->launcher, launched->size_variable);
  }
  if (!options.log_file.empty()) {
    open_log(options.log_file);
    log_line(fmt::format("begins: {}", shell_command(repeat_arguments(*options.command))));
    if (!options.config.empty())
      log_line(fmt::format("of {}: {}", options.config, fmt::join(options.from_config, ", ")));
  }
  for (const auto& locate_in : options.locate_models) locate_in(options);
  if (const std::string note = slow_processor_note(); !note.empty()) print_note(options, note);
  if (current_host != nullptr)
    return RunScope({current_host->stop, logged(current_host->progress), options.threads});
  const ProgressStyle style = options.quiet ? ProgressStyle::kNone : progress_style(options.progress);
  return RunScope({program_stop(), logged(make_progress(style)), options.threads});
}

bool is_hosted() { return current_host != nullptr; }

bool takes_page() { return current_host != nullptr && current_host->page != nullptr; }

void give_page(const std::function<std::string()>& make) {
  if (takes_page()) current_host->page(make());
}

bool takes_notes(const CommonOptions& options) { return current_host != nullptr || !options.quiet; }

void print_note(const CommonOptions& options, const std::string& text) {
  log_line(fmt::format("note: {}", text));
  if (current_host != nullptr) {
    current_host->note(text);
    return;
  }
  if (options.quiet) return;
  clear_progress();
  fmt::print(stderr, "{} {}\n", coloured(stderr, Colour::kYellow, "note:"), text);
}

std::function<void(const std::string&)> notes_to(const CommonOptions& options) {
  return [&options](const std::string& note) { print_note(options, note); };
}

void print_next(const CommonOptions& options, const std::vector<std::vector<std::string>>& commands) {
  if (options.quiet) return;
  clear_progress();
  for (std::size_t i = 0; i < commands.size(); ++i) {
    std::vector<std::string> words = commands[i];
    for (std::string& word : words) word = as_given(options, word);
    fmt::print(stderr, "{} {}\n", i == 0 ? coloured(stderr, Colour::kCyan, "Next:") : "     ",
               shell_command(words));
  }
}

void print_notes(const CommonOptions& options, std::span<const std::string> notes) {
  for (const std::string& note : notes) print_note(options, note);
}

void print_json(const nlohmann::ordered_json& document) {
  if (current_host != nullptr) {
    current_host->result(document);
    return;
  }
  fmt::print("{}\n", document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

std::uint64_t parse_bytes(std::string_view flag, std::string_view text) {
  double number = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit(end, text.data() + text.size());
  unit.erase(0, unit.find_first_not_of(' '));
  for (char& c : unit) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  const std::pair<const char*, double> units[] = {{"", 1.0},   {"B", 1.0},  {"KB", 1e3},
                                                  {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}};
  for (const auto& [name, factor] : units) {
    const double bytes = number * factor;
    if (error == std::errc() && unit == name && bytes >= 1.0 && bytes < 1e18)
      return static_cast<std::uint64_t>(bytes);
  }
  bad_usage("{}: found '{}', expected a size like 500MB or 5GB", flag, text);
}

std::string human_bytes(double bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  int unit = 0;
  while (bytes >= 1000.0 && unit < 4) {
    bytes /= 1000.0;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 1, kUnits[unit]);
}

}  // namespace swiftprune::cli
