#include "swiftprune/serving/generation.h"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

namespace swiftprune {

TokenChooser::TokenChooser(const GenerationRequest& request)
    : request_(request), sampler_(request.sampler), editor_(request.rules, request.prompt) {
  if (request.grammar) mask_.emplace(*request.grammar);
}

TokenChooser::Choice TokenChooser::next(std::span<const float> logits) {
  Choice choice;
  const auto allowed = edited(logits);
  choice.ends = !allowed;
  if (choice.ends) return choice;
  choice.token = sampler_.next(*allowed);
  const auto& ends = request_.end_tokens;
  choice.ends = std::find(ends.begin(), ends.end(), choice.token) != ends.end();
  if (choice.ends) return choice;
  ++produced_;
  editor_.add(choice.token);
  if (mask_) {
    mask_->add(choice.token);
    choice.complete = mask_->complete();
  }
  return choice;
}

std::optional<std::span<const float>> TokenChooser::edited(std::span<const float> logits) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  const bool too_early = produced_ < request_.min_tokens && !request_.end_tokens.empty();
  if (editor_.changes_nothing() && !mask_ && !too_early) return logits;
  scratch_.assign(logits.begin(), logits.end());
  editor_.apply(scratch_);
  for (const std::int32_t id : request_.end_tokens) {
    const auto i = static_cast<std::size_t>(id);
    if (too_early && i < scratch_.size()) scratch_[i] = kNever;
  }
  if (!mask_) return scratch_;
  mask_->exclude(scratch_, request_.end_tokens);
  const bool none =
      std::all_of(scratch_.begin(), scratch_.end(), [](float logit) { return logit == kNever; });
  if (none && mask_->may_end()) return std::nullopt;
  return scratch_;
}

std::optional<Generation::Event> Generation::next(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  if (!arrived_.wait_for(lock, patience, [&] { return !events_.empty() || finished_; })) return std::nullopt;
  if (events_.empty()) return Event{.finished = finished_, .message = message_};
  Event event = std::move(events_.front());
  events_.pop_front();
  return event;
}

void Generation::push(Event event) {
  {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  arrived_.notify_one();
}

void Generation::finish(FinishReason reason, const std::string& message) noexcept {
  {
    const std::lock_guard lock(mutex_);
    finished_ = reason;
    try {
      message_ = message;
    } catch (const std::bad_alloc&) {
      // The reason alone has to do.
    }
  }
  arrived_.notify_one();
}

}  // namespace swiftprune
