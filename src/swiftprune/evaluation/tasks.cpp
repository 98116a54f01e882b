#include "swiftprune/evaluation/tasks.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/evaluation/continuations.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune {
namespace {

// What an empty context becomes: the harness's prefix token.
std::int32_t prefix_token(const Model& model, const Tokenizer& tokenizer) {
  if (tokenizer.bos()) return *tokenizer.bos();
  if (tokenizer.eos()) return *tokenizer.eos();
  bad_input("{}: found neither BOS nor EOS, expected one to stand for an empty context",
            model.checkpoint().folder().string());
}

class Encoder {
 public:
  Encoder(const Model& model, const Tokenizer& tokenizer) : model_(model), tokenizer_(tokenizer) {}

  // Context and continuation are tokenized as one text; the space between them belongs to the continuation.
  ScoredSequence encode(const TaskItem& item, std::string context, std::string continuation) {
    ScoredSequence sequence;
    if (context.empty()) {
      sequence.ids = tokenizer_.encode(continuation, false);
      sequence.ids.insert(sequence.ids.begin(), prefix_token(model_, tokenizer_));
      sequence.num_context = 1;
    } else {
      while (!context.empty()) {
        const std::size_t last = text::previous_boundary(context, context.size());
        if (!text::is_whitespace(text::code_point_at(context, last).value)) break;
        continuation.insert(0, context.substr(last));
        context.resize(last);
      }
      sequence.ids = tokenizer_.encode(context + continuation);
      sequence.num_context = std::ssize(tokenizer_.encode(context));
    }
    check(item, sequence);
    return sequence;
  }
  // Has a context been cut since the last call?
  bool take_truncated() { return std::exchange(truncated_, false); }

 private:
  void check(const TaskItem& item, ScoredSequence& sequence) {
    const std::int64_t scored = std::ssize(sequence.ids) - sequence.num_context;
    if (scored < 1) bad_input("{}: found a choice without tokens, expected text", item.where);
    if (sequence.num_context < 1) bad_input("{}: found a context without tokens, expected text", item.where);
    const std::int64_t most = model_.config().max_positions;
    if (scored > most) {
      bad_input("{}: found a choice of {} tokens, expected at most {} (max_position_embeddings)", item.where,
                scored, most);
    }
    // The beginning of a context that is too long is left out.
    if (const std::int64_t extra = std::ssize(sequence.ids) - (most + 1); extra > 0) {
      sequence.ids.erase(sequence.ids.begin(), sequence.ids.begin() + extra);
      sequence.num_context -= extra;
      truncated_ = true;
    }
  }

  const Model& model_;
  const Tokenizer& tokenizer_;
  bool truncated_ = false;
};

// Standard error of the mean of zeros and ones, with the sample's deviation (n - 1).
double standard_error(double mean, std::int64_t n) {
  return n < 2 ? 0.0 : std::sqrt(mean * (1.0 - mean) / static_cast<double>(n - 1));
}

std::int64_t arg_max(std::span<const double> values) {
  return std::max_element(values.begin(), values.end()) - values.begin();
}

TaskItemResult judge(const TaskItem& item, const std::vector<SequenceScore>& scores, bool multiple_choice) {
  TaskItemResult result;
  std::vector<double> per_character;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    result.log_probs.push_back(scores[i].log_prob);
    per_character.push_back(scores[i].log_prob /
                            static_cast<double>(std::max<std::int64_t>(1, item.lengths[i])));
  }
  if (!multiple_choice) {
    result.correct = result.correct_norm = scores[0].greedy;
    return result;
  }
  result.predicted = arg_max(result.log_probs);
  result.predicted_norm = arg_max(per_character);
  result.correct = result.predicted == item.gold;
  result.correct_norm = result.predicted_norm == item.gold;
  return result;
}

}  // namespace

TaskResult run_task(const Model& model, TextForwards& forwards, const Tokenizer& tokenizer, const Task& task,
                    const ProgressFn& progress, Communicator& ranks) {
  const auto start = std::chrono::steady_clock::now();
  TaskResult result;
  result.name = task.name;
  result.multiple_choice = task.format->multiple_choice;
  Encoder encoder(model, tokenizer);
  std::vector<std::vector<ScoredSequence>> sequences;
  for (const TaskItem& item : task.items) {
    std::vector<ScoredSequence>& choices = sequences.emplace_back();
    for (std::size_t i = 0; i < item.num_choices(); ++i) {
      choices.push_back(encoder.encode(item, item.contexts[item.contexts.size() == 1 ? 0 : i],
                                       item.continuations[item.continuations.size() == 1 ? 0 : i]));
    }
    if (encoder.take_truncated()) ++result.num_truncated;
  }
  const ContinuationScores scores = score_continuations(model, forwards, sequences, progress, ranks);
  double correct = 0.0, correct_norm = 0.0, log_prob = 0.0;
  for (std::size_t i = 0; i < task.items.size(); ++i) {
    result.items.push_back(judge(task.items[i], scores.items[i], result.multiple_choice));
    correct += result.items.back().correct ? 1.0 : 0.0;
    correct_norm += result.items.back().correct_norm ? 1.0 : 0.0;
    log_prob += result.items.back().log_probs[0];
  }
  const auto n = std::ssize(task.items);
  result.acc = correct / static_cast<double>(n);
  result.acc_norm = correct_norm / static_cast<double>(n);
  result.acc_stderr = standard_error(result.acc, n);
  result.acc_norm_stderr = standard_error(result.acc_norm, n);
  if (!result.multiple_choice) result.perplexity = std::exp(-log_prob / static_cast<double>(n));
  result.num_forwarded = scores.num_forwarded;
  result.num_unshared = scores.num_unshared;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace swiftprune
