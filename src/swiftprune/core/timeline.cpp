#include "swiftprune/core/timeline.h"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "swiftprune/core/run_context.h"

namespace swiftprune {
namespace {

double microseconds(Timeline::Clock::duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

// The name of a process or of one of its rows.
std::string name_event(const char* what, int process, std::size_t row, std::string_view name) {
  return fmt::format(R"({{"name":"{}","ph":"M","pid":{},"tid":{},"args":{{"name":"{}"}}}})", what, process,
                     row, name);
}

}  // namespace

void Timeline::add(const char* stage, const char* row, std::int64_t block, Clock::time_point start,
                   Clock::time_point end) {
  const std::lock_guard lock(mutex_);
  events_.push_back({stage, row, block, start, end});
}

std::string Timeline::events(int rank) const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string_view> rows;
  std::string text = name_event("process_name", rank, 0, fmt::format("rank {}", rank));
  std::string spans;
  for (const Event& event : events_) {
    const auto place = std::find(rows.begin(), rows.end(), event.row);
    const auto row = static_cast<std::size_t>(place - rows.begin());
    if (place == rows.end()) rows.emplace_back(event.row);
    const std::string args =
        event.block < 0 ? std::string() : fmt::format(R"(,"args":{{"block":{}}})", event.block);
    spans += fmt::format(
        ",\n"
        R"({{"name":"{}","ph":"X","pid":{},"tid":{},"ts":{:.1f},"dur":{:.1f}{}}})",
        event.stage, rank, row, microseconds(event.start - zero_), microseconds(event.end - event.start),
        args);
  }
  for (std::size_t row = 0; row < rows.size(); ++row)
    text += ",\n" + name_event("thread_name", rank, row, rows[row]);
  return text + spans;
}

Timeline* Timeline::bound() {
  const RunContext* run = RunLoan::bound();
  return run != nullptr ? run->timeline : nullptr;
}

std::string trace_file(const std::vector<std::string>& events) {
  return fmt::format("{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{}\n]}}\n", fmt::join(events, ",\n"));
}

}  // namespace swiftprune
