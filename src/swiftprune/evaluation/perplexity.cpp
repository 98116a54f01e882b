#include "swiftprune/evaluation/perplexity.h"

#include <cmath>
#include <numbers>
#include <numeric>

namespace swiftprune {
namespace {

// Summed negative log-likelihood of each window's scored tokens.
std::vector<double> window_sums(const Model& model, const Backend& backend, const ScoredWindows& scored,
                                ForwardOptions options) {
  const TokenWindows& windows = scored.windows;
  std::vector<double> sums(static_cast<std::size_t>(windows.num_windows()), 0.0);
  std::vector<std::int64_t> first_rows;
  for (const std::int64_t target : scored.first_target) first_rows.push_back(target - 1);
  options.first_rows = first_rows;
  for_each_logits(
      model, backend, windows, options, [&](std::int64_t w, std::int64_t first_row, ConstMatrixView logits) {
        // Row r predicts token r + 1; the last row of a window predicts nothing that is known.
        const std::int64_t rows = std::min(logits.rows, windows.seqlen - 1 - first_row);
        if (rows <= 0) return;
        std::vector<double> log_probs(static_cast<std::size_t>(rows));
        const auto targets = windows.window(w).subspan(static_cast<std::size_t>(first_row + 1),
                                                       static_cast<std::size_t>(rows));
        backend.target_log_probs(logits.row_block(0, rows), targets, log_probs);
        sums[static_cast<std::size_t>(w)] -= std::accumulate(log_probs.begin(), log_probs.end(), 0.0);
      });
  return sums;
}

}  // namespace

double PerplexityResult::bits_per_byte(double bytes_per_token) const {
  return mean_nll / std::numbers::ln2 / bytes_per_token;
}

PerplexityResult perplexity(const Model& model, const Backend& backend, std::span<const ScoredWindows> parts,
                            const ForwardOptions& options) {
  return perplexity_of(model, parts,
                       [&](const ScoredWindows& part) { return window_sums(model, backend, part, options); });
}

PerplexityResult perplexity_of(const Model& model, std::span<const ScoredWindows> parts,
                               const WindowSums& window_sums) {
  PerplexityResult result;
  double total = 0.0;
  for (const ScoredWindows& scored : parts) {
    const std::vector<double> sums = window_sums(scored);
    for (std::size_t w = 0; w < sums.size(); ++w) {
      total += sums[w];
      result.window_nll.push_back(sums[w] /
                                  static_cast<double>(scored.windows.seqlen - scored.first_target[w]));
    }
    result.num_tokens += scored.num_scored();
    result.num_forwarded += std::ssize(scored.windows.ids);
  }
  expect(result.num_tokens > 0, "perplexity: tokens to score");
  result.mean_nll = total / static_cast<double>(result.num_tokens);
  if (!std::isfinite(result.mean_nll)) {
    bad_input("{}: the loss is not finite; weights or activations overflow (try --compute f32)",
              model.checkpoint().folder().string());
  }
  result.perplexity = std::exp(result.mean_nll);
  return result;
}

}  // namespace swiftprune
