// Zero-shot tasks by log-likelihood, with the prompts and the procedure of lm-evaluation-harness (0.4.13):
// context and continuation are tokenized together, choices are compared by their log-likelihood (acc) and by
// their log-likelihood a character (acc_norm). Formats of the files: docs/evaluation.md.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/core/json.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/model/text_forwards.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/text/tokenizer.h"

namespace swiftprune {

struct TaskItem {
  std::string where;                       // "<file>: line <n>"
  std::vector<std::string> contexts;       // one for all choices, or one each
  std::vector<std::string> continuations;  // one each with what separates it from the context, or one for all
  std::vector<std::int64_t> lengths;       // of the choices, in characters: what acc_norm divides by
  std::int64_t gold = 0;

  std::size_t num_choices() const { return std::max(contexts.size(), continuations.size()); }
};

struct TaskFormat {
  std::string_view name;
  bool multiple_choice;  // else the continuation must be the model's own (greedy), as in LAMBADA
  TaskItem (*read)(const JsonField& line);
  std::string_view summary;
};
std::span<const TaskFormat> task_formats();

struct Task {
  std::string name;
  const TaskFormat* format = nullptr;
  std::vector<TaskItem> items;
};
// spec: "FILE.jsonl", whose name tells the format (any other name: generic), or "FORMAT=FILE.jsonl".
// max_items: the first so many lines; 0: all. Throws Error{kUsage} for an unknown format and Error{kBadInput}
// naming file, line and field.
Task read_task(const std::string& spec, std::int64_t max_items);

struct TaskItemResult {
  std::vector<double> log_probs;  // of each choice, nats
  std::int64_t predicted = 0;     // by log-likelihood
  std::int64_t predicted_norm = 0;
  bool correct = false;
  bool correct_norm = false;
};

struct TaskResult {
  std::string name;
  bool multiple_choice = true;
  std::vector<TaskItemResult> items;
  double acc = 0.0, acc_stderr = 0.0;  // standard error of the mean
  double acc_norm = 0.0, acc_norm_stderr = 0.0;
  double perplexity = 0.0;         // of the continuations; without multiple choice only
  std::int64_t num_truncated = 0;  // items whose context lost its beginning, as in lm-evaluation-harness
  std::int64_t num_forwarded = 0;  // tokens that the model ran on
  std::int64_t num_unshared = 0;   // tokens without sharing the choices' common beginning
  double seconds = 0.0;
};
// Throws Error{kBadInput} naming the line for an empty continuation and for one that does not fit in the
// model's positions. ranks: as score_continuations().
TaskResult run_task(const Model& model, TextForwards& forwards, const Tokenizer& tokenizer, const Task& task,
                    const ProgressFn& progress, Communicator& ranks = alone());

}  // namespace swiftprune
