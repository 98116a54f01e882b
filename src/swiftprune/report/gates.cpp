#include "swiftprune/report/gates.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace swiftprune {

std::string GateResult::line() const {
  return fmt::format("{}  {}: {}: found {:.4f}, limit {:.4f}", passed ? "pass" : "FAIL", model, gate, found,
                     limit);
}

std::vector<GateResult> check_gates(const GateLimits& limits, const std::string& model,
                                    const Divergence& divergence) {
  std::vector<GateResult> gates;
  // A value that is not a number fails.
  const auto at_most = [&](const char* gate, const std::optional<double>& limit, double found) {
    if (limit) gates.push_back({model, gate, *limit, found, found <= *limit});
  };
  at_most("--max-perplexity-ratio", limits.max_perplexity_ratio, divergence.perplexity_ratio);
  at_most("--max-kl", limits.max_kl, divergence.mean_kl);
  if (limits.min_top1) {
    gates.push_back(
        {model, "--min-top1", *limits.min_top1, divergence.top1, divergence.top1 >= *limits.min_top1});
  }
  sort_failed_first(gates);
  return gates;
}

std::vector<GateResult> check_gates(const GateLimits& limits, const std::string& model,
                                    const GenerationDrift& drift) {
  std::vector<GateResult> gates;
  if (limits.max_loops) {
    gates.push_back(
        {model, "--max-loops", *limits.max_loops, drift.new_loops, drift.new_loops <= *limits.max_loops});
  }
  if (limits.max_length_change) {
    // Where the dense model says nothing, any token is a change without end.
    const double change = drift.mean_tokens == drift.dense_mean_tokens
                              ? 0.0
                              : std::abs(drift.mean_tokens / drift.dense_mean_tokens - 1.0);
    gates.push_back({model, "--max-length-change", *limits.max_length_change, change,
                     change <= *limits.max_length_change});
  }
  if (limits.min_exact) {
    const double exact =
        drift.questions > 0 ? static_cast<double>(drift.exact) / static_cast<double>(drift.questions) : 0.0;
    gates.push_back({model, "--min-exact", *limits.min_exact, exact, exact >= *limits.min_exact});
  }
  sort_failed_first(gates);
  return gates;
}

void sort_failed_first(std::vector<GateResult>& gates) {
  std::stable_sort(gates.begin(), gates.end(),
                   [](const GateResult& a, const GateResult& b) { return !a.passed && b.passed; });
}

}  // namespace swiftprune
