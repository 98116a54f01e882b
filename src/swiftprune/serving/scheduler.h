// Continuous batching: a bounded queue of requests and one thread that decodes all running ones together. A
// new request joins between two steps, as soon as a lane is free and the engine has memory for all that it may come to
// need; its prompt is taken in chunks (chunk_pace.h), so that it does not hold up the others for long, and a long one shares them with a shorter one; of a prompt that begins as what
// a lane has read, only the rest is read. What fails ends the requests that it concerns, never the thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "swiftprune/model/sequence_engine.h"
#include "swiftprune/serving/chunk_pace.h"
#include "swiftprune/serving/generation.h"

namespace swiftprune {

struct SchedulerOptions {
  std::size_t max_waiting = 64;       // requests that wait while every lane is taken
  std::int64_t prefill_chunk = 256;   // tokens of a prompt at a time at most
  std::chrono::seconds timeout{300};  // of a request, from its arrival
  bool reuses_prompts = true;         // of what lanes have read
};

struct SchedulerCounts {
  std::int64_t waiting = 0, running = 0;
  std::int64_t accepted = 0, refused = 0, finished = 0, cancelled = 0, timed_out = 0, failed = 0;
  std::int64_t prompt_tokens = 0, generated_tokens = 0, steps = 0;
  std::int64_t reused_tokens = 0;  // of prompts, which were not read again; not among prompt_tokens
  CacheMemory cache;               // as the last request that began or ended left it
};

class Scheduler {
 public:
  Scheduler(SequenceEngine& engine, const SchedulerOptions& options);
  ~Scheduler();  // stops

  // All of them or none: empty when they do not fit into the free lanes and the queue, or nothing is
  // accepted any more (stopped(), lost_engine()).
  std::vector<std::shared_ptr<Generation>> submit(std::vector<GenerationRequest> requests);
  std::shared_ptr<Generation> submit(GenerationRequest request);  // null instead of empty
  std::size_t max_requests() const;  // lanes and queue together: more are never accepted at once
  // No request is accepted any more; those in it end with kShutdown.
  void stop();
  bool stopped() const { return stopping_; }
  // After an error of the device the engine's memory can no longer be trusted: why, and nothing is accepted.
  std::optional<std::string> lost_engine() const;
  SchedulerCounts counts() const;

 private:
  // What an exception means for the requests that it concerns.
  struct Failure {
    FinishReason reason = FinishReason::kError;
    std::string message;
    bool engine_lost = false;
  };
  static Failure failure_of(const std::exception_ptr& exception);

  void run();
  void end_all(const Failure& failure);
  void admit();
  std::shared_ptr<Generation> next_to_start() const;  // null: none now
  // The lane that a request gets, and whose beginning it takes over.
  struct Beginning {
    std::size_t lane = 0, source = 0;
    std::size_t shared = 0;  // tokens
  };
  Beginning find_beginning(const std::vector<std::int32_t>& prompt) const;
  // Gives the request the first free lane. False where memory does not suffice beside what runs; then no free lane holds
  // anything but, perhaps, the beginning of this prompt.
  bool start_lane(Generation& generation);
  bool drop_oldest(std::size_t lane);
  void swap_lanes(std::size_t a, std::size_t b);
  void swap_running(std::size_t a, std::size_t b);
  std::int64_t num_decoding() const { return static_cast<std::int64_t>(decoding_); }
  void take_turns();   // of two prompts
  bool joins() const;  // the next chunk is read in the pass of the answers' step
  std::span<const std::int32_t> next_chunk() const;
  // Of the prompt behind the answers: its lane has these, too.
  void add_read(Generation& generation, std::span<const std::int32_t> ids);
  void prefill();
  // One chunk of a prompt in a pass of its own: the logits behind it.
  std::span<const float> take_prompt(Generation& generation);
  // Gives every running answer its next token; chunk: of the prompt behind them, read in the same pass, or empty.
  void step(std::span<const std::int32_t> chunk);
  // Gives the lane its next token; its request ends with its last one, or when that fails.
  void advance(std::size_t lane, std::span<const float> logits);
  std::optional<FinishReason> next_token(Generation& generation, std::span<const float> logits);
  // Throws again when the engine is lost.
  void fail_lanes(std::size_t first, std::size_t last, const std::exception_ptr& exception);
  void remove(std::size_t lane, FinishReason reason, const std::string& message = "");
  void remove_done();

  SequenceEngine& engine_;
  SchedulerOptions options_;
  std::vector<std::shared_ptr<Generation>> running_;  // by lane; those that decode come first
  std::size_t decoding_ = 0;
  ChunkPace pace_;
  bool out_of_memory_ = false;  // for the first that waits, until a lane ends
  // By lane, used or free.
  struct Lane {
    std::vector<std::int32_t> read;  // the ids that its state is of
    std::int64_t last_use = 0;       // which start of a lane this was; 0: none
  };
  std::vector<Lane> lanes_;
  std::int64_t uses_ = 0;
  std::deque<std::shared_ptr<Generation>> waiting_;
  mutable std::mutex mutex_;  // of waiting_, counts_ and lost_engine_
  std::condition_variable work_;
  SchedulerCounts counts_;
  std::optional<std::string> lost_engine_;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace swiftprune
