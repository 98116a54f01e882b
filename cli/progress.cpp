#include "progress.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace swiftprune::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kBarPeriod = std::chrono::milliseconds(100);
constexpr auto kJsonPeriod = std::chrono::milliseconds(200);
constexpr auto kLinePeriod = std::chrono::seconds(30);

// What is known of a stage: of all styles.
struct StageTime {
  std::string_view stage;
  std::int64_t done = 0;
  std::int64_t total = 0;  // 0: unknown
  double seconds = 0.0;    // since it was first told of
  std::int64_t first = 0;  // what was done then: a resumed run's blocks took none of them

  bool is_last() const { return total > 0 && done >= total; }
  std::optional<double> seconds_left() const {
    if (total <= 0 || done <= first || is_last()) return std::nullopt;
    return seconds * static_cast<double>(total - done) / static_cast<double>(done - first);
  }
  std::string text() const {
    if (total <= 0) return fmt::format("{}: {}", stage, done);
    std::string line =
        fmt::format("{}: {:3.0f} % ({}/{})", stage,
                    100.0 * static_cast<double>(done) / static_cast<double>(total), done, total);
    if (const auto left = seconds_left()) line += fmt::format(", {:.0f} s left", *left);
    return line;
  }
  std::string json() const {
    nlohmann::ordered_json line = {{"stage", stage}, {"done", done}};
    if (total > 0) line["total"] = total;
    line["seconds"] = seconds;
    if (const auto left = seconds_left()) line["seconds_left"] = *left;
    return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
};

// Stages of one command may report from several threads.
class ProgressWriter {
 public:
  explicit ProgressWriter(ProgressStyle style) : style_(style), last_shown_(Clock::now()) {}
  ProgressWriter(const ProgressWriter&) = delete;
  ProgressWriter& operator=(const ProgressWriter&) = delete;
  ~ProgressWriter() { clear(); }

  void update(std::string_view stage, std::int64_t done, std::int64_t total) {
    const std::scoped_lock lock(mutex_);
    const auto now = Clock::now();
    const bool is_new = stage != stage_ || (ended_ && (total <= 0 || done < total));  // or once more
    ended_ = total > 0 && done >= total;
    if (is_new) {
      stage_ = stage;
      started_ = now;
      first_ = done;
    }
    const StageTime time{stage, done, total, std::chrono::duration<double>(now - started_).count(), first_};
    const auto since = now - last_shown_;
    switch (style_) {
      case ProgressStyle::kNone:
        return;
      case ProgressStyle::kLines:
        if (since < kLinePeriod) return;
        fmt::print(stderr, "{}\n", time.text());
        break;
      case ProgressStyle::kJson:
        if (!is_new && !time.is_last() && since < kJsonPeriod) return;
        fmt::print(stderr, "{}\n", time.json());
        break;
      case ProgressStyle::kBar:
        if (!is_new && !time.is_last() && since < kBarPeriod) return;
        fmt::print(stderr, "\r\033[K{}", time.text());
        is_drawn_ = true;
        if (time.is_last()) erase();
        break;
    }
    last_shown_ = now;
    std::fflush(stderr);
  }

  void clear() {
    const std::scoped_lock lock(mutex_);
    erase();
  }

 private:
  void erase() {
    if (is_drawn_) fmt::print(stderr, "\r\033[K");
    std::fflush(stderr);
    is_drawn_ = false;
  }

  const ProgressStyle style_;
  std::mutex mutex_;
  std::string stage_;
  Clock::time_point started_, last_shown_;
  std::int64_t first_ = 0;
  bool is_drawn_ = false;
  bool ended_ = false;  // the stage
};

// The terminal's one line.
std::weak_ptr<ProgressWriter>& shown_progress() {
  static std::weak_ptr<ProgressWriter> writer;
  return writer;
}

}  // namespace

void add_progress_option(CLI::App& command, std::string& name) {
  command
      .add_option(
          "--progress", name,
          "Progress on standard error: bar, lines (every 30 s), json (a JSON line each), none, or auto (a "
          "bar on a terminal, else lines)")
      ->capture_default_str()
      ->transform(one_of({"auto", "bar", "lines", "json", "none"}));
}

ProgressStyle progress_style(const std::string& name) {
  if (name == "none") return ProgressStyle::kNone;
  if (name == "bar") return ProgressStyle::kBar;
  if (name == "lines") return ProgressStyle::kLines;
  if (name == "json") return ProgressStyle::kJson;
  return ::isatty(STDERR_FILENO) != 0 ? ProgressStyle::kBar : ProgressStyle::kLines;
}

ProgressFn make_progress(ProgressStyle style) {
  auto writer = std::make_shared<ProgressWriter>(style);
  shown_progress() = writer;
  return [writer](std::string_view stage, std::int64_t done, std::int64_t total) {
    writer->update(stage, done, total);
  };
}

void clear_progress() {
  if (const auto writer = shown_progress().lock()) writer->clear();
}

}  // namespace swiftprune::cli
