// Continuous batching: a bounded queue of requests and one thread that decodes all running ones together. A
// new request joins between two steps; its prompt is taken in chunks, so that it does not hold up the others
// for long.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "swiftprune/model/sampler.h"
#include "swiftprune/model/sequence_engine.h"

namespace swiftprune {

enum class FinishReason { kStop, kLength, kTimeout, kCancelled, kShutdown };

struct GenerationRequest {
  std::vector<std::int32_t> prompt;       // not empty
  std::int64_t max_tokens = 16;           // > 0
  std::optional<std::int32_t> end_token;  // ends the text, is not part of it
  SamplerOptions sampler;
};

// One request on its way: the scheduler's thread fills it, one other thread reads it.
class Generation {
 public:
  explicit Generation(GenerationRequest request) : request_(std::move(request)), sampler_(request_.sampler) {}

  struct Event {
    std::optional<std::int32_t> token;     // the next, or
    std::optional<FinishReason> finished;  // the end
  };
  // Waits for the next event; nothing when none came within `patience`.
  std::optional<Event> next(std::chrono::milliseconds patience);
  // The reader needs no more.
  void cancel() { cancelled_ = true; }
  const GenerationRequest& request() const { return request_; }

 private:
  friend class Scheduler;
  void push(Event event);

  const GenerationRequest request_;
  Sampler sampler_;
  std::atomic<bool> cancelled_ = false;
  std::chrono::steady_clock::time_point deadline_;
  std::size_t taken_ = 0;      // tokens of the prompt that the model has seen
  std::int64_t produced_ = 0;  // tokens
  std::int32_t last_ = 0;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Event> events_;
};

struct SchedulerOptions {
  std::size_t max_waiting = 64;  // requests in the queue
  std::int64_t prefill_chunk = 256;
  std::chrono::seconds timeout{300};  // of a request, from its arrival
};

struct SchedulerCounts {
  std::int64_t waiting = 0, running = 0;
  std::int64_t accepted = 0, refused = 0, finished = 0, cancelled = 0, timed_out = 0;
  std::int64_t prompt_tokens = 0, generated_tokens = 0, steps = 0;
};

class Scheduler {
 public:
  Scheduler(SequenceEngine& engine, const SchedulerOptions& options);
  ~Scheduler();  // stops

  // Null when the queue is full or the scheduler has been stopped.
  std::shared_ptr<Generation> submit(GenerationRequest request);
  // No request is accepted any more; those in it end with kShutdown.
  void stop();
  bool stopped() const { return stopping_; }
  SchedulerCounts counts() const;

 private:
  void run();
  void admit();
  void prefill();
  void decode();
  // The generation's next token from the logits of its last one; false when that was the end.
  bool advance(Generation& generation, std::span<const float> logits);
  void remove(std::size_t lane, FinishReason reason);
  void remove_done();

  SequenceEngine& engine_;
  SchedulerOptions options_;
  std::vector<std::shared_ptr<Generation>> running_;  // by lane; those that decode come first
  std::size_t decoding_ = 0;
  std::deque<std::shared_ptr<Generation>> waiting_;
  mutable std::mutex mutex_;  // of waiting_ and counts_
  std::condition_variable work_;
  SchedulerCounts counts_;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace swiftprune
