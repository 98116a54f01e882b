// One request for text on its way through the scheduler: what is asked for, and the events that answer it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/model/logit_rules.h"
#include "swiftprune/model/sampler.h"
#include "swiftprune/model/token_chances.h"
#include "swiftprune/serving/token_mask.h"

namespace swiftprune {

enum class FinishReason {
  kStop,         // an end token, a stop text, or a complete text of the grammar
  kLength,       // max_tokens
  kTimeout,      // too late
  kCancelled,    // the reader went away
  kShutdown,     // the scheduler was stopped
  kError,        // this request failed: the event's message says why
  kUnavailable,  // memory or the device failed: the message says why
};

struct GenerationRequest {
  std::vector<std::int32_t> prompt;      // not empty, ids inside the model's vocabulary
  std::int64_t max_tokens = 16;          // 0: only the prompt is looked at
  std::vector<std::int32_t> end_tokens;  // each ends the text and is not part of it
  std::int64_t min_tokens = 0;           // before so many, no end token is drawn
  SamplerOptions sampler;
  LogitRules rules;
  std::shared_ptr<const TokenGrammar> grammar;  // what the text must be; null: anything
  std::optional<std::int64_t> logprobs;         // each token with so many alternatives
  bool prompt_logprobs = false;  // those of the prompt's tokens too, as events before the first
};

// Chooses the tokens of one request from logits.
class TokenChooser {
 public:
  explicit TokenChooser(const GenerationRequest& request);

  struct Choice {
    std::int32_t token = 0;
    bool ends = false;      // an end token: not part of the text
    bool complete = false;  // nothing can follow it
  };
  // Throws Error{kFailure} when the logits are not finite or nothing is allowed.
  Choice next(std::span<const float> logits);

 private:
  // Nothing when no token is left and the text may end here.
  std::optional<std::span<const float>> edited(std::span<const float> logits);

  const GenerationRequest& request_;
  Sampler sampler_;
  LogitEditor editor_;
  std::optional<TokenMask> mask_;
  std::int64_t produced_ = 0;
  std::vector<float> scratch_;
};

// The scheduler's thread fills it, one other thread reads it.
class Generation {
 public:
  explicit Generation(GenerationRequest request) : request_(std::move(request)), chooser_(request_) {}
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  struct Event {
    std::optional<std::int32_t> token = {};     // the next, or
    std::optional<FinishReason> finished = {};  // the end
    bool of_prompt = false;
    std::optional<TokenChances> chances = {};  // where asked for; the prompt's first token has none
    std::string message = {};                  // of kError and kUnavailable
  };
  // Waits for the next event; nothing when none came within `patience`. After the end it is the end again.
  std::optional<Event> next(std::chrono::milliseconds patience);
  // The reader has all that it needs: the request counts as finished.
  void enough() { want(Wanted::kNoMore); }
  // The reader went away.
  void cancel() { want(Wanted::kNothing); }
  const GenerationRequest& request() const { return request_; }
  // Tokens of the prompt that were not read again; known once the first event is there.
  std::int64_t reused() const { return reused_; }

 private:
  friend class Scheduler;
  enum class Wanted { kAll, kNoMore, kNothing };
  void want(Wanted wanted) {
    Wanted all = Wanted::kAll;
    wanted_.compare_exchange_strong(all, wanted);
  }
  void push(Event event);
  void finish(FinishReason reason, const std::string& message) noexcept;

  const GenerationRequest request_;
  TokenChooser chooser_;
  std::atomic<Wanted> wanted_ = Wanted::kAll;
  std::chrono::steady_clock::time_point deadline_;
  std::atomic<std::int64_t> reused_ = 0;
  std::size_t taken_ = 0;      // tokens of the prompt that the model has seen
  std::int64_t produced_ = 0;  // tokens
  std::int32_t last_ = 0;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Event> events_;
  std::optional<FinishReason> finished_;  // beside the events, so that an end needs no memory
  std::string message_;
};

}  // namespace swiftprune
