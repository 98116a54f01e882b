// Perplexity of one model on texts, and its accuracy on tasks: what `swiftprune eval` does.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/api/job.h"
#include "swiftprune/api/texts.h"
#include "swiftprune/evaluation/evaluation_text.h"
#include "swiftprune/evaluation/perplexity.h"
#include "swiftprune/evaluation/tasks.h"
#include "swiftprune/ranks/communicator.h"

namespace swiftprune {

struct EvaluatedText {
  EvaluationText text;
  PerplexityResult result;
  std::string ids;  // hash of the windows
  double seconds = 0.0;
};

struct EvalReport {
  std::string model;               // as it was asked for
  std::string adapter;             // likewise; empty: none
  std::vector<std::string> notes;  // of the model's reading
  int ranks = 1;
  std::string convention, convention_label;  // of the texts
  std::int64_t seqlen = 0;
  bool bos = false;
  std::vector<EvaluatedText> texts;
  std::vector<TaskResult> tasks;
  ComputeType compute = ComputeType::kF32;
  std::string device;
  int threads = 0;
  std::string instruction_set;

  // Of all texts together: every scored token weighs the same. Only where there are texts.
  double perplexity() const;
};
// The document of `eval --json`; with_items: the scores of every item of the tasks.
nlohmann::ordered_json to_json(const EvalReport& report, bool with_items = false);

struct EvalJob {
  std::string model;    // as locate_model()
  std::string adapter;  // LoRA folder whose parts stand beside the linears; empty: none
  EvaluationTexts texts;
  std::vector<std::string> tasks;  // FILE.jsonl or FORMAT=FILE.jsonl
  std::int64_t limit = 0;          // first so many items of each task; 0: all
  JobDevice where = {.compute = "f32"};

  Outcome<EvalReport> run(const JobContext& context = {}) const;
};

// Throws Error{kUsage} for a job without texts and tasks.
void check(const EvalJob& job);

// The work of a job whose model is open, on this device; job.model and job.where are not looked at. on_text and on_task
// hear of each result when it is there. Progress is the bound run's.
struct EvalEvents {
  NoteFn note = [](const std::string&) {};
  std::function<void(const EvaluatedText&)> on_text = [](const EvaluatedText&) {};
  std::function<void(const EvalReport&)> on_texts = [](const EvalReport&) {};  // when all are there, if any
  std::function<void(const TaskResult&)> on_task = [](const TaskResult&) {};
};
EvalReport evaluate(const EvalJob& job, const Model& model, Device& device, ComputeType compute,
                    const EvalEvents& events, Communicator& ranks = alone());

}  // namespace swiftprune
