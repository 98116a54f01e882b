#include "swiftprune/report/gates.h"

#include <algorithm>

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

void sort_failed_first(std::vector<GateResult>& gates) {
  std::stable_sort(gates.begin(), gates.end(),
                   [](const GateResult& a, const GateResult& b) { return !a.passed && b.passed; });
}

}  // namespace swiftprune
