// What a run does when: stages with their start and duration, in rows, for all its threads, as events of a Chrome trace
// (chrome://tracing, ui.perfetto.dev). Nothing is kept, and next to nothing costs, where RunContext::timeline is null.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace swiftprune {

class Timeline {
 public:
  using Clock = std::chrono::steady_clock;

  // Times count from here: ranks make theirs together.
  Timeline() : zero_(Clock::now()) {}
  // stage, row: live as long as the program does ("forward", "main"). block: of the model; -1: none.
  void add(const char* stage, const char* row, std::int64_t block, Clock::time_point start,
           Clock::time_point end);
  // The events of process `rank`, separated by commas.
  std::string events(int rank) const;

  // The calling thread's; null where nothing is recorded.
  static Timeline* bound();

 private:
  struct Event {
    const char *stage, *row;
    std::int64_t block;
    Clock::time_point start, end;
  };
  mutable std::mutex mutex_;
  const Clock::time_point zero_;
  std::vector<Event> events_;
};

// {"traceEvents": [...]} of all ranks' events().
std::string trace_file(const std::vector<std::string>& events);

// A stage of the bound timeline, from here to the end of the scope.
class TimelineStage {
 public:
  explicit TimelineStage(const char* stage, std::int64_t block = -1, const char* row = "main")
      : timeline_(Timeline::bound()), stage_(stage), row_(row), block_(block) {
    if (timeline_ != nullptr) start_ = Timeline::Clock::now();
  }
  TimelineStage(const TimelineStage&) = delete;
  TimelineStage& operator=(const TimelineStage&) = delete;
  ~TimelineStage() {
    if (timeline_ != nullptr) timeline_->add(stage_, row_, block_, start_, Timeline::Clock::now());
  }

 private:
  Timeline* timeline_;
  const char *stage_, *row_;
  std::int64_t block_;
  Timeline::Clock::time_point start_{};
};

}  // namespace swiftprune
