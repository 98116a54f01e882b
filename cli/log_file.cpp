#include "log_file.h"

#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <mutex>
#include <utility>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "swiftprune/core/error.h"

namespace swiftprune::cli {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPeriod = std::chrono::seconds(30);

// The process has one, as it has one standard error.
struct Log {
  std::mutex mutex;
  std::FILE* file = nullptr;
};

Log& log() {
  static Log instance;
  return instance;
}

}  // namespace

void open_log(const std::string& file) {
  std::FILE* opened = std::fopen(file.c_str(), "ae");
  if (opened == nullptr) bad_usage("--log-file: {} cannot be opened: {}", file, std::strerror(errno));
  const std::lock_guard lock(log().mutex);
  if (log().file != nullptr) std::fclose(log().file);
  log().file = opened;
}

void log_line(std::string_view text) {
  const std::lock_guard lock(log().mutex);
  if (log().file == nullptr) return;
  while (text.ends_with('\n')) text.remove_suffix(1);
  fmt::print(log().file, "{:%Y-%m-%dT%H:%M:%SZ} {}\n", fmt::gmtime(std::time(nullptr)), text);
  std::fflush(log().file);  // a log is read when something went wrong
}

ProgressFn logged(ProgressFn progress) {
  struct State {
    std::mutex mutex;
    std::string stage;
    Clock::time_point last;
  };
  return [progress = std::move(progress), state = std::make_shared<State>()](
             std::string_view stage, std::int64_t done, std::int64_t total) {
    progress(stage, done, total);
    const std::lock_guard lock(state->mutex);
    const bool is_new = state->stage != stage, is_last = total > 0 && done >= total;
    const auto now = Clock::now();
    if (!is_new && !is_last && now - state->last < kPeriod) return;
    state->stage = stage;
    state->last = now;
    log_line(total > 0 ? fmt::format("{}: {} of {}", stage, done, total)
                       : fmt::format("{}: {}", stage, done));
  };
}

}  // namespace swiftprune::cli
