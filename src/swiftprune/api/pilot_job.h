// The small trial that users start with, on a model and a text of their own: methods × sparsities and patterns, fewer
// channels or experts, fewer bits; quality, size and speed of each, and the one command that it recommends, if any. What
// `swiftprune pilot` does. Each trial is the job of the command that is printed for it, on half of the text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "swiftprune/api/job.h"
#include "swiftprune/report/comparison.h"

namespace swiftprune {

// The user's text in two parts, so that nothing is measured on what was calibrated with.
struct PilotText {
  TokenWindows calibration;
  std::vector<ScoredWindows> evaluation;
  std::string convention;
};
// First half for calibration, second for evaluation; windows of the largest power of two (64 to 2048 tokens)
// that gives each half, and what is measured, four of them. At most max_calibration and max_evaluation tokens
// (or one window). Throws Error{kBadInput} naming `name` when the text is too short.
PilotText split_text(const std::vector<std::int32_t>& ids, const std::string& name,
                     std::int64_t max_positions, std::int64_t max_calibration, std::int64_t max_evaluation);

struct PilotJob {
  std::string model;  // as locate_model()
  std::string text;   // .txt, .jsonl, .u16, .u32
  std::vector<std::string> methods = {"fast", "best"};
  std::vector<double> sparsities = {0.2, 0.3, 0.5};
  std::vector<std::string> patterns = {"6:8", "2:4"};  // N:M, beside the sparsities
  std::vector<double> shrink_ratios = {0.1};           // of the MLP's channels, of a model without experts
  std::vector<std::string> bits = {"int8", "int4"};    // of every linear, without zeros
  std::vector<double> expert_ratios = {0.25, 0.5};     // of the experts, of a model that has some
  double minutes = 10.0;                               // for everything
  double max_perplexity_ratio = 1.10;                  // what the recommended model is to keep
  std::int64_t calibration_tokens = 16 * 2048, evaluation_tokens = 8 * 2048;  // at most
  JobDevice where;
};

// The work of a job whose model is open, on this device. The dense model and every trial, the lowest perplexity first.
// report.recommendation: of the trials that keep the limit the smallest as stored (of those within a hundredth of its bytes
// the one of lowest perplexity); none where no trial keeps it. What this model or device has not is passed over, with a
// note, unless nothing is left. Gentle settings come first; where all would not end in time, all get fewer windows, and
// what even so does not end is left out (where nothing does, all but the gentlest). Throws Error{kUsage} for unknown methods or patterns.
struct PilotRun {
  std::string model;  // for commands, as the user named it
  PilotText text;
  std::optional<double> bytes_per_token;
  std::filesystem::path work;                // for the models on trial, which are removed again
  std::vector<std::string> prune_arguments;  // of the user's own, for every command that is printed
  std::vector<std::string> masks;
  ComputeType compute = ComputeType::kF32;
};
ComparisonReport run_pilot(const PilotJob& job, const PilotRun& run, const Model& model, Device& device);

}  // namespace swiftprune
