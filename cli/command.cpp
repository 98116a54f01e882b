#include "command.h"

#include <unistd.h>

#include <cctype>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune::cli {
namespace {

class ProgressLine {
 public:
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

 private:
  void clear() {
    if (dirty_) fmt::print(stderr, "\r\033[K");
    std::fflush(stderr);
    dirty_ = false;
  }
  std::string stage_;
  std::chrono::steady_clock::time_point started_, drawn_;
  bool dirty_ = false;
};

}  // namespace

void add_common_options(CLI::App& command, CommonOptions& options) {
  command.add_flag("--json", options.json, "Print the result as one JSON document on standard output");
  command.add_flag("-q,--quiet", options.quiet, "No progress and no hints on standard error");
  command.add_option("--threads", options.threads, "Threads (0: one per core)")->check(CLI::Range(0, 4096));
}

void apply(const CommonOptions& options) { set_num_threads(options.threads); }

ProgressFn terminal_progress(const CommonOptions& options) {
  if (options.quiet || isatty(STDERR_FILENO) == 0) return [](std::string_view, std::int64_t, std::int64_t) {};
  auto line = std::make_shared<ProgressLine>();
  return [line](std::string_view stage, std::int64_t done, std::int64_t total) {
    line->update(stage, done, total);
  };
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
