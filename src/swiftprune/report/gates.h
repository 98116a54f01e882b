// Limits that a pruned model must keep: what makes `compare` and `prune --gate` usable in CI.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/evaluation/divergence.h"
#include "swiftprune/evaluation/generation_drift.h"

namespace swiftprune {

struct GateLimits {
  std::optional<double> max_perplexity_ratio = {};
  std::optional<double> min_top1 = {};  // share, 0 to 1
  std::optional<double> max_kl = {};    // mean, nats a token
  // Of answers to prompts.
  std::optional<double> max_loops = {};  // share of answers that end in a loop where the dense model's do not
  std::optional<double> max_length_change = {};  // of the mean length, as a share of the dense model's
  std::optional<double> min_exact = {};          // share of the questions that are answered right

  bool on_text() const { return max_perplexity_ratio || min_top1 || max_kl; }
  bool on_answers() const { return max_loops || max_length_change || min_exact; }
};

struct GateResult {
  std::string model;
  std::string gate;  // its flag: "--max-kl"
  double limit = 0.0;
  double found = 0.0;
  bool passed = false;

  std::string line() const;  // "FAIL  NAME: --max-kl: found 0.2310, limit 0.1000"
};

// Failed ones first.
std::vector<GateResult> check_gates(const GateLimits& limits, const std::string& model,
                                    const Divergence& divergence);
// min_exact: the prompts have questions among them.
std::vector<GateResult> check_gates(const GateLimits& limits, const std::string& model,
                                    const GenerationDrift& drift);
void sort_failed_first(std::vector<GateResult>& gates);

}  // namespace swiftprune
