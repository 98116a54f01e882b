#include "swiftprune/serving/scheduler.h"

#include <algorithm>
#include <utility>

#include "swiftprune/core/error.h"

namespace swiftprune {

std::optional<Generation::Event> Generation::next(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  if (!arrived_.wait_for(lock, patience, [&] { return !events_.empty(); })) return std::nullopt;
  const Event event = events_.front();
  events_.pop_front();
  return event;
}

void Generation::push(Event event) {
  {
    const std::lock_guard lock(mutex_);
    events_.push_back(event);
  }
  arrived_.notify_one();
}

Scheduler::Scheduler(SequenceEngine& engine, const SchedulerOptions& options)
    : engine_(engine), options_(options), thread_([this] { run(); }) {}

Scheduler::~Scheduler() {
  stop();
  thread_.join();
}

std::shared_ptr<Generation> Scheduler::submit(GenerationRequest request) {
  expect(!request.prompt.empty() && request.max_tokens > 0, "submit: a prompt and room for an answer");
  expect(static_cast<std::int64_t>(request.prompt.size()) + request.max_tokens <= engine_.capacity(),
         "submit: a request that fits");
  auto generation = std::make_shared<Generation>(std::move(request));
  generation->deadline_ = std::chrono::steady_clock::now() + options_.timeout;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || waiting_.size() >= options_.max_waiting) {
      ++counts_.refused;
      return nullptr;
    }
    ++counts_.accepted;
    waiting_.push_back(generation);
  }
  work_.notify_one();
  return generation;
}

void Scheduler::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_one();
}

SchedulerCounts Scheduler::counts() const {
  const std::lock_guard lock(mutex_);
  SchedulerCounts counts = counts_;
  counts.waiting = static_cast<std::int64_t>(waiting_.size());
  return counts;
}

void Scheduler::run() {
  while (true) {
    admit();
    if (stopping_) break;
    remove_done();
    if (decoding_ < running_.size()) prefill();
    if (decoding_ > 0) decode();
  }
  while (!running_.empty()) remove(running_.size() - 1, FinishReason::kShutdown);
  const std::lock_guard lock(mutex_);
  for (const auto& generation : waiting_) generation->push({std::nullopt, FinishReason::kShutdown});
  waiting_.clear();
}

// Waits when there is nothing to do. One prompt at a time is taken in: its lane is the last.
void Scheduler::admit() {
  std::unique_lock lock(mutex_);
  work_.wait(lock, [&] { return stopping_ || !running_.empty() || !waiting_.empty(); });
  counts_.running = static_cast<std::int64_t>(running_.size());
  while (!stopping_ && !waiting_.empty() && decoding_ == running_.size() &&
         static_cast<std::int64_t>(running_.size()) < engine_.num_lanes()) {
    std::shared_ptr<Generation> generation = std::move(waiting_.front());
    waiting_.pop_front();
    engine_.restart(static_cast<std::int64_t>(running_.size()));
    running_.push_back(std::move(generation));
  }
}

void Scheduler::prefill() {
  const std::size_t lane = decoding_;
  Generation& generation = *running_[lane];
  const std::span<const std::int32_t> prompt(generation.request_.prompt);
  const std::size_t count =
      std::min(prompt.size() - generation.taken_, static_cast<std::size_t>(options_.prefill_chunk));
  const ConstMatrixView logits =
      engine_.prefill(static_cast<std::int64_t>(lane), prompt.subspan(generation.taken_, count));
  generation.taken_ += count;
  {
    const std::lock_guard lock(mutex_);
    counts_.prompt_tokens += static_cast<std::int64_t>(count);
  }
  if (generation.taken_ < prompt.size()) return;
  ++decoding_;
  if (!advance(generation, logits.row_span(0))) remove(lane, FinishReason::kStop);
}

void Scheduler::decode() {
  std::vector<std::int32_t> ids;
  for (std::size_t lane = 0; lane < decoding_; ++lane) ids.push_back(running_[lane]->last_);
  const ConstMatrixView logits = engine_.decode(ids);
  {
    const std::lock_guard lock(mutex_);
    ++counts_.steps;
  }
  // From the back: removing a lane moves the last one into its place, whose token is drawn already.
  for (std::size_t lane = decoding_; lane-- > 0;) {
    if (!advance(*running_[lane], logits.row_span(static_cast<std::int64_t>(lane))))
      remove(lane, FinishReason::kStop);
  }
}

bool Scheduler::advance(Generation& generation, std::span<const float> logits) {
  const std::int32_t token = generation.sampler_.next(logits);
  if (token == generation.request_.end_token) return false;
  generation.last_ = token;
  ++generation.produced_;
  generation.push({token, std::nullopt});
  const std::lock_guard lock(mutex_);
  ++counts_.generated_tokens;
  return true;
}

void Scheduler::remove_done() {
  const auto now = std::chrono::steady_clock::now();
  for (std::size_t lane = running_.size(); lane-- > 0;) {
    const Generation& generation = *running_[lane];
    if (generation.cancelled_) {
      remove(lane, FinishReason::kCancelled);
    } else if (generation.produced_ >= generation.request_.max_tokens) {
      remove(lane, FinishReason::kLength);
    } else if (now > generation.deadline_) {
      remove(lane, FinishReason::kTimeout);
    }
  }
  const std::lock_guard lock(mutex_);
  std::erase_if(waiting_, [&](const std::shared_ptr<Generation>& generation) {
    const bool late = now > generation->deadline_;
    if (late) generation->push({std::nullopt, FinishReason::kTimeout});
    if (!late && !generation->cancelled_) return false;
    ++(late ? counts_.timed_out : counts_.cancelled);
    return true;
  });
}

void Scheduler::remove(std::size_t lane, FinishReason reason) {
  const std::shared_ptr<Generation> generation = running_[lane];
  const auto swap = [&](std::size_t other) {
    if (lane == other) return;
    engine_.swap(static_cast<std::int64_t>(lane), static_cast<std::int64_t>(other));
    std::swap(running_[lane], running_[other]);
    lane = other;
  };
  if (lane < decoding_) swap(--decoding_);  // behind the lanes that go on decoding
  swap(running_.size() - 1);
  running_.pop_back();
  {
    const std::lock_guard lock(mutex_);
    ++(reason == FinishReason::kCancelled ? counts_.cancelled
       : reason == FinishReason::kTimeout ? counts_.timed_out
                                          : counts_.finished);
  }
  generation->push({std::nullopt, reason});
}

}  // namespace swiftprune
