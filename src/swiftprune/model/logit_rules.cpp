#include "swiftprune/model/logit_rules.h"

namespace swiftprune {

LogitEditor::LogitEditor(LogitRules rules, std::span<const std::int32_t> prompt) : rules_(std::move(rules)) {
  if (rules_.repetition_penalty != 1.0) seen_.insert(prompt.begin(), prompt.end());
}

void LogitEditor::add(std::int32_t token) {
  if (changes_nothing()) return;
  if (rules_.repetition_penalty != 1.0) seen_.insert(token);
  ++counts_[token];
}

void LogitEditor::apply(std::span<float> logits) const {
  for (const std::int32_t id : seen_) {
    float& logit = logits[static_cast<std::size_t>(id)];
    const auto penalty = static_cast<float>(rules_.repetition_penalty);
    logit = logit > 0.0f ? logit / penalty : logit * penalty;
  }
  for (const auto& [id, count] : counts_) {
    logits[static_cast<std::size_t>(id)] -=
        static_cast<float>(rules_.presence_penalty + rules_.frequency_penalty * static_cast<double>(count));
  }
  for (const auto& [id, bias] : rules_.bias) logits[static_cast<std::size_t>(id)] += bias;
}

}  // namespace swiftprune
