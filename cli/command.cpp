#include "command.h"

#include <unistd.h>

#include <cctype>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "signals.h"
#include "swiftprune/core/error.h"
#include "swiftprune/report/comparison.h"

namespace swiftprune::cli {
namespace {

class ProgressLine {
 public:
  ProgressLine() = default;
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  ~ProgressLine() { clear(); }

  void update(std::string_view stage, std::int64_t done, std::int64_t total) {
    using Clock = std::chrono::steady_clock;
    const auto now = Clock::now();
    if (stage != stage_) {
      stage_ = stage;
      started_ = now;
      drawn_ = {};
    }
    const bool last = total > 0 && done >= total;
    if (!last && now - drawn_ < std::chrono::milliseconds(100)) return;
    drawn_ = now;
    const double seconds = std::chrono::duration<double>(now - started_).count();
    std::string line = fmt::format("{}: {}", stage, done);
    if (total > 0) {
      line = fmt::format("{}: {:3.0f} % ({}/{})", stage,
                         100.0 * static_cast<double>(done) / static_cast<double>(total), done, total);
      if (done > 0 && !last) {
        const double left = seconds * static_cast<double>(total - done) / static_cast<double>(done);
        line += fmt::format(", {:.0f} s left", left);
      }
    }
    fmt::print(stderr, "\r\033[K{}", line);
    std::fflush(stderr);
    dirty_ = true;
    if (last) clear();
  }

  void clear() {
    if (dirty_) fmt::print(stderr, "\r\033[K");
    std::fflush(stderr);
    dirty_ = false;
  }

 private:
  std::string stage_;
  std::chrono::steady_clock::time_point started_, drawn_;
  bool dirty_ = false;
};

// The terminal's one line.
std::weak_ptr<ProgressLine>& drawn_line() {
  static std::weak_ptr<ProgressLine> line;
  return line;
}

ProgressFn terminal_progress(const CommonOptions& options) {
  if (options.quiet || isatty(STDERR_FILENO) == 0) return RunContext{}.progress;
  auto line = std::make_shared<ProgressLine>();
  drawn_line() = line;
  return [line](std::string_view stage, std::int64_t done, std::int64_t total) {
    line->update(stage, done, total);
  };
}

}  // namespace

std::unique_ptr<CLI::App> make_program() {
  auto program = std::make_unique<CLI::App>(
      "swiftprune: makes a language model smaller and faster, on the machine you have");
  program->formatter(std::make_shared<HelpFormat>());
  program->set_version_flag("--version", std::string("swiftprune ") + SWIFTPRUNE_VERSION);
  program->require_subcommand(1);
  program->footer("Every command has --help with an example. Start: swiftprune inspect MODEL");
  for (auto* declare :
       {declare_families, declare_import, declare_export, declare_inspect, declare_prune, declare_shrink,
        declare_eval, declare_compare, declare_pilot, declare_generate, declare_bench, declare_serve,
        declare_tokenize, declare_verify, declare_pack, declare_unpack}) {
    declare(*program);
  }
  return program;
}

void add_common_options(CLI::App& command, CommonOptions& options) {
  options.command = &command;
  command.add_flag("--json", options.json, "Print the result as one JSON document on standard output");
  command.add_flag("-q,--quiet", options.quiet, "No progress and no hints on standard error");
  command.add_option("--threads", options.threads, "Threads (0: one per core)")->check(CLI::Range(0, 4096));
}

RunScope apply(const CommonOptions& options) {
  return RunScope({program_stop(), terminal_progress(options), options.threads});
}

void clear_progress() {
  if (const auto line = drawn_line().lock()) line->clear();
}

void print_note(const CommonOptions& options, const std::string& text) {
  if (options.quiet) return;
  clear_progress();
  fmt::print(stderr, "note: {}\n", text);
}

void print_next(const CommonOptions& options, const std::vector<std::vector<std::string>>& commands) {
  if (options.quiet) return;
  clear_progress();
  for (std::size_t i = 0; i < commands.size(); ++i)
    fmt::print(stderr, "{} {}\n", i == 0 ? "Next:" : "     ", shell_command(commands[i]));
}

void print_notes(const CommonOptions& options, std::span<const std::string> notes) {
  if (options.quiet) return;
  for (const std::string& note : notes) print_note(options, note);
}

void print_json(const nlohmann::ordered_json& document) {
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
