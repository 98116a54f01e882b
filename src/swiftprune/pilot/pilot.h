// The small trial that users start with: methods × sparsities, and of a model with experts fewer experts, on a model
// and a text of their own, first on a few blocks (for errors and an estimate of time), then on the whole model as long as the time lasts;
// quality, size and speed of each; and the one command that it recommends.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

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

struct PilotOptions {
  std::string model;  // as the user named it
  std::string text;
  std::string device = "cpu";  // as the user named it
  std::vector<std::string> methods = {"fast", "best"};
  std::vector<double> sparsities = {0.3, 0.5, 0.6};
  std::vector<std::string> patterns = {"2:4"};  // N:M, beside the sparsities
  // Shares of the experts that are taken out, of a model that has experts; those that leave too few for its router are
  // passed over, with a note.
  std::vector<double> expert_ratios = {0.25, 0.5};
  double budget_seconds = 600.0;
  double max_perplexity_ratio = 1.10;  // what the recommended model is to keep
  std::filesystem::path work;          // folder for the models on trial, which are removed again
  std::optional<double> bytes_per_token;
  std::vector<std::string> prune_arguments;  // of the user's own, for every command that it prints
  std::vector<std::string> masks;
  ForwardOptions forward;
};

// The dense model and every trial, best first. report.recommendation: the trial with the fewest weights left (zeros
// and taken out) that keeps the limit (of those within a hundredth, the lowest perplexity), else the one nearest to it, which a note says.
// Throws Error{kUsage} for unknown methods or patterns.
ComparisonReport run_pilot(const Model& model, Device& device, const PilotText& text,
                           const PilotOptions& options);

}  // namespace swiftprune
