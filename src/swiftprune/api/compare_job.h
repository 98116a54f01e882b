// What pruning cost, against the dense model, on own text and own prompts: what `swiftprune compare` does, without
// --equal-bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/api/job.h"
#include "swiftprune/api/texts.h"
#include "swiftprune/model/model.h"
#include "swiftprune/report/comparison.h"

namespace swiftprune {

struct CompareJob {
  std::string dense;                // as locate_model()
  std::vector<std::string> pruned;  // likewise
  // LoRA folders, one for each pruned model; "none" or none at all: without.
  std::vector<std::string> adapters;
  EvaluationTexts texts;
  std::string prompts, refusals;    // files of prompts (docs/report.md); empty: none
  std::vector<std::string> accept;  // regular expressions that any answer to `refusals` may match
  std::int64_t max_tokens = 64;
  std::int64_t error_tokens = 2048;  // for block errors; 0: none
  std::vector<std::string> masks;    // tensors that the page pictures; empty: two of the middle block
  GateLimits gates;                  // whether they are kept is told by ComparisonReport::passed()
  JobDevice where = {.compute = "f32"};

  // to_html(), to_markdown() and to_json() of report/comparison.h make the pages.
  Outcome<ComparisonReport> run(const JobContext& context = {}) const;
};

// That of the model with this number, the dense one being 0; empty: none.
std::string adapter_of(const CompareJob& job, std::size_t model);
// Throws Error{kUsage} for a job without anything to measure, and limits on what is not measured.
void check(const CompareJob& job);
// What the open models, the dense one first, are compared by; models must outlive it. `folders` and the masks of a page
// are left to the caller.
ComparisonInput comparison_input(const CompareJob& job, std::span<const std::unique_ptr<Model>> models,
                                 ComputeType compute, const NoteFn& note);
// One attention and one MLP linear of the middle block.
std::vector<std::string> default_masks(const Model& model);

}  // namespace swiftprune
