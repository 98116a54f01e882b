#include "swiftprune/evaluation/perplexity.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "swiftprune/core/timeline.h"
#include "swiftprune/evaluation/window_runs.h"

namespace swiftprune {
namespace {

// Σ -log p of the window's tokens [first_target, seqlen); its rows begin at first_row.
double window_loss(TextForwards& forwards, std::span<const std::int32_t> window, std::int64_t first_target,
                   std::int64_t first_row) {
  const std::int64_t seqlen = std::ssize(window);
  double sum = 0.0;
  std::vector<std::int64_t> rows;
  std::vector<double> log_probs;
  std::vector<std::int32_t> best;
  for (std::int64_t target = first_target; target < seqlen; target += forwards.rows_a_score()) {
    check_interrupt();
    const std::int64_t count = std::min(forwards.rows_a_score(), seqlen - target);
    rows.resize(static_cast<std::size_t>(count));
    std::iota(rows.begin(), rows.end(), first_row + target - 1);
    log_probs.resize(rows.size());
    best.resize(rows.size());
    forwards.score(0, rows, window.subspan(static_cast<std::size_t>(target), rows.size()), log_probs, best);
    sum -= std::accumulate(log_probs.begin(), log_probs.end(), 0.0);
  }
  return sum;
}

// Summed negative log-likelihood of each window's scored tokens.
std::vector<double> window_sums(TextForwards& forwards, const Model& model, const ScoredWindows& scored,
                                const ProgressFn& progress, Communicator& ranks) {
  const TokenWindows& windows = scored.windows;
  const WindowRuns runs(forwards, windows, ranks);
  std::int64_t total = 0;
  for (const Share& run : runs.of_rank(ranks.rank())) total += run.count * model.config().num_layers();
  std::int64_t done = 0;
  std::vector<double> sums(static_cast<std::size_t>(windows.num_windows()), 0.0);
  for (const auto& [first, count] : runs.of_rank(ranks.rank())) {
    const TimelineStage stage("forward");
    forwards.run(0, windows, first, count, [&](std::int64_t n) {
      done += n;
      if (progress) progress("forward", done, total);
    });
    for (std::int64_t w = 0; w < count; ++w) {
      const auto window = static_cast<std::size_t>(first + w);
      sums[window] =
          window_loss(forwards, windows.window(first + w), scored.first_target[window], w * windows.seqlen);
    }
  }
  for (int rank = 0; rank < ranks.size(); ++rank) {
    for (const auto& [first, count] : runs.of_rank(rank)) {
      ranks.broadcast(rank, std::as_writable_bytes(std::span(sums).subspan(static_cast<std::size_t>(first),
                                                                           static_cast<std::size_t>(count))));
    }
  }
  return sums;
}

}  // namespace

double PerplexityResult::bits_per_byte(double bytes_per_token) const {
  return mean_nll / std::numbers::ln2 / bytes_per_token;
}

PerplexityResult perplexity(const Model& model, TextForwards& forwards, std::span<const ScoredWindows> parts,
                            const ProgressFn& progress, Communicator& ranks) {
  PerplexityResult result;
  double total = 0.0;
  for (const ScoredWindows& scored : parts) {
    const std::vector<double> sums = window_sums(forwards, model, scored, progress, ranks);
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
