#include "swiftprune/serving/answer_text.h"

#include <algorithm>

#include "swiftprune/text/unicode.h"

namespace swiftprune {
namespace {

std::string name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kTimeout:
      return "timeout";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kShutdown:
      return "shutdown";
    case FinishReason::kError:
      return "error";
    case FinishReason::kUnavailable:
      return "unavailable";
  }
  return "?";
}

}  // namespace

std::string StopFilter::add(std::string_view piece) {
  if (found_) return "";
  held_ += piece;
  std::size_t cut = std::string::npos;
  for (const std::string& stop : stops_) cut = std::min(cut, held_.find(stop));
  if (cut != std::string::npos) {
    found_ = true;
    std::string shown = held_.substr(0, cut);
    held_.clear();
    return shown;
  }
  std::size_t keep = 0;  // the longest end that a stop text begins with
  for (const std::string& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.ends_with(std::string_view(stop).substr(0, n))) keep = n;
    }
  }
  std::string shown = held_.substr(0, held_.size() - keep);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopFilter::rest() { return found_ ? "" : std::exchange(held_, ""); }

AnswerText::AnswerText(const Tokenizer& tokenizer, const ApiRequest& request, std::size_t index,
                       Generation& generation)
    : tokenizer_(tokenizer),
      request_(request),
      generation_(generation),
      echo_(request.echo ? request.prompt_texts[index / request.answers_per_prompt] : ""),
      prompt_stream_(tokenizer),
      stream_(tokenizer, generation.request().prompt),
      filter_(request.stop),
      code_points_(text::num_code_points(echo_)) {}

AnswerText::Piece AnswerText::take(const Generation::Event& event) {
  Piece piece{std::exchange(echo_, ""), {}};
  if (event.of_prompt) {
    hold(prompt_stream_, event, 0, prompt_points_);
    prompt_points_ += text::num_code_points(prompt_stream_.add(*event.token));
    piece.tokens = release(false);
    return piece;
  }
  std::string shown;
  if (event.token) {
    shown = take_token(event);
  } else {
    if (!filter_.found()) shown = filter_.add(stream_.rest());
    shown += filter_.rest();
    finish_ = filter_.found() ? "stop" : name_of(*event.finished);
    message_ = event.message;
  }
  shown_ += shown.size();
  piece.text += shown;
  piece.tokens = release(!event.token && !filter_.found());
  return piece;
}

std::string AnswerText::take_token(const Generation::Event& event) {
  ++tokens_;
  hold(stream_, event, came_, code_points_);
  const std::string piece = stream_.add(*event.token);
  came_ += piece.size();
  code_points_ += text::num_code_points(piece);
  if (!held_.empty()) held_.back().last = came_;
  if (tokens_ < request_.min_tokens) return piece;
  std::string shown = filter_.add(piece);
  if (filter_.found()) {
    finish_ = "stop";
    generation_.enough();
  }
  return shown;
}

// A special token adds no text: its spelling.
std::string AnswerText::text_of(const TextStream& stream, std::int32_t id) const {
  std::string text = stream.peek(id);
  return text.empty() ? tokenizer_.token(id) : text;
}

// Before the token is added to the stream.
void AnswerText::hold(const TextStream& stream, const Generation::Event& event, std::size_t first,
                      std::int64_t offset) {
  if (!generation_.request().logprobs) return;
  Held held{{text_of(stream, *event.token), offset}, first, first};
  if (event.chances) {
    held.token.logprob = event.chances->logprob;
    for (const TokenChance& chance : event.chances->top)
      held.token.top.emplace_back(text_of(stream, chance.id), chance.logprob);
  }
  held_.push_back(std::move(held));
}

std::vector<TokenText> AnswerText::release(bool all) {
  std::vector<TokenText> tokens;
  while (!held_.empty()) {
    const Held& held = held_.front();
    // A stop text may begin inside a token.
    if (!all && held.last > shown_ && !(filter_.found() && held.first < shown_)) break;
    if (!all && filter_.found() && held.first >= shown_) break;
    tokens.push_back(std::move(held_.front().token));
    held_.pop_front();
  }
  return tokens;
}

}  // namespace swiftprune
