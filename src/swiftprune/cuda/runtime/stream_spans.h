// Stages of work on a device's streams, for the run's timeline: when the device did it, not when the host asked for it.
// Nothing where no timeline is bound.
#pragma once

#include <memory>
#include <vector>

#include "swiftprune/core/timeline.h"
#include "swiftprune/cuda/runtime/runtime.h"

namespace swiftprune::cuda {

class StreamSpans {
 public:
  // Of the current device.
  StreamSpans();

  // What `stream` is given until the scope ends is a stage of this row. Streams need not be idle.
  class Span {
   public:
    Span(StreamSpans& spans, cudaStream_t stream, const char* stage, const char* row, std::int64_t block);
    Span(const Span&) = delete;
    Span& operator=(const Span&) = delete;
    ~Span();

   private:
    StreamSpans& spans_;
    cudaStream_t stream_;
    std::size_t index_ = 0;
  };

  // To the timeline, of what the streams have behind them: when they are idle.
  void collect();

 private:
  struct Stage {
    const char *stage, *row;
    std::int64_t block;
    std::unique_ptr<Event> start, end;
  };

  Timeline* timeline_ = Timeline::bound();
  Timeline::Clock::time_point zero_host_;
  std::unique_ptr<Event> zero_;
  std::vector<Stage> stages_;
};

}  // namespace swiftprune::cuda
