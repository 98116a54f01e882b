// One answer's tokens as text, until its end: what can be shown of it so far, cut at the first stop text,
// with the log-probabilities of the tokens that the shown text is made of.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "swiftprune/serving/generation.h"
#include "swiftprune/serving/openai_api.h"
#include "swiftprune/text/text_stream.h"

namespace swiftprune {

// Text that arrives in pieces, cut at the first stop text. What could be the beginning of one is held back.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  // What of the text so far can be shown; `found` tells whether a stop text came.
  std::string add(std::string_view piece);
  std::string rest();  // at the end
  bool found() const { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

// A token with its log-probability, as answers show it.
struct TokenText {
  std::string text;                                      // what it adds; a special token's spelling
  std::int64_t offset = 0;                               // code points of the answer before it
  std::optional<double> logprob = {};                    // the first token of a prompt has none
  std::vector<std::pair<std::string, double>> top = {};  // the likeliest
};

class AnswerText {
 public:
  // index: of request.generations. Keeps references.
  AnswerText(const Tokenizer& tokenizer, const ApiRequest& request, std::size_t index,
             Generation& generation);

  struct Piece {
    std::string text;
    std::vector<TokenText> tokens;
  };
  // Takes one event; what can be shown now. After the last one finish() is set.
  Piece take(const Generation::Event& event);
  // "stop", "length", ...; empty while it goes on.
  const std::string& finish() const { return finish_; }
  const std::string& message() const { return message_; }  // of "error" and "unavailable"
  std::int64_t tokens() const { return tokens_; }          // of the answer

 private:
  struct Held {
    TokenText token;
    std::size_t first, last;  // bytes of the answer's text
  };

  std::string text_of(const TextStream& stream, std::int32_t id) const;
  void hold(const TextStream& stream, const Generation::Event& event, std::size_t first, std::int64_t offset);
  std::string take_token(const Generation::Event& event);
  std::vector<TokenText> release(bool all);

  const Tokenizer& tokenizer_;
  const ApiRequest& request_;
  Generation& generation_;
  std::string echo_;  // not yet shown
  TextStream prompt_stream_, stream_;
  StopFilter filter_;
  std::deque<Held> held_;
  std::size_t came_ = 0, shown_ = 0;  // bytes of the answer's text
  std::int64_t code_points_ = 0;      // of what came, the echo included
  std::int64_t prompt_points_ = 0;    // of the prompt's tokens so far
  std::string finish_, message_;
  std::int64_t tokens_ = 0;
};

}  // namespace swiftprune
