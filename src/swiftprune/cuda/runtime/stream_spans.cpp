#include "swiftprune/cuda/runtime/stream_spans.h"

namespace swiftprune::cuda {

StreamSpans::StreamSpans() {
  if (timeline_ == nullptr) return;
  const Stream stream;
  zero_ = std::make_unique<Event>(true);
  zero_->record(stream);
  zero_->synchronize();
  zero_host_ = Timeline::Clock::now();
}

StreamSpans::Span::Span(StreamSpans& spans, cudaStream_t stream, const char* stage, const char* row,
                        std::int64_t block)
    : spans_(spans), stream_(stream) {
  if (spans.timeline_ == nullptr) return;
  index_ = spans.stages_.size();
  spans.stages_.push_back({stage, row, block, std::make_unique<Event>(true), std::make_unique<Event>(true)});
  spans.stages_.back().start->record(stream);
}

// An error of the device is told by the next call that asks it.
StreamSpans::Span::~Span() {
  if (spans_.timeline_ == nullptr) return;
  try {
    spans_.stages_[index_].end->record(stream_);
  } catch (const Error&) {
  }
}

void StreamSpans::collect() {
  const auto at = [&](const Event& event) {
    const std::chrono::duration<double, std::milli> since(event.ms_since(*zero_));
    return zero_host_ + std::chrono::duration_cast<Timeline::Clock::duration>(since);
  };
  for (const Stage& stage : stages_)
    timeline_->add(stage.stage, stage.row, stage.block, at(*stage.start), at(*stage.end));
  stages_.clear();
}

}  // namespace swiftprune::cuda
