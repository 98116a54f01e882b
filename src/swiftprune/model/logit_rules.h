// What a request changes about logits before a token is chosen: a bias for tokens by id, and penalties for
// tokens that were there already (OpenAI's presence and frequency penalties; the repetition penalty of CTRL,
// arXiv 1909.05858, section 4.1).
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace swiftprune {

struct LogitRules {
  std::vector<std::pair<std::int32_t, float>> bias = {};  // ids inside the vocabulary
  double presence_penalty = 0.0;                          // off the logit of each token that the answer has
  double frequency_penalty = 0.0;                         // the same, times how often
  // > 0, of tokens of prompt and answer: divides positive logits, multiplies negative ones.
  double repetition_penalty = 1.0;

  bool change_nothing() const {
    return bias.empty() && presence_penalty == 0.0 && frequency_penalty == 0.0 && repetition_penalty == 1.0;
  }
};

// The rules of one request with the tokens that it has so far.
class LogitEditor {
 public:
  LogitEditor(LogitRules rules, std::span<const std::int32_t> prompt);
  void add(std::int32_t token);  // of the answer
  void apply(std::span<float> logits) const;
  bool changes_nothing() const { return rules_.change_nothing(); }

 private:
  LogitRules rules_;
  std::unordered_set<std::int32_t> seen_;  // of prompt and answer, where the repetition penalty needs it
  std::unordered_map<std::int32_t, std::int64_t> counts_;  // of the answer
};

}  // namespace swiftprune
