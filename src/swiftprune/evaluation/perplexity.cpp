#include "swiftprune/evaluation/perplexity.h"

#include <cmath>
#include <numeric>

namespace swiftprune {

PerplexityResult perplexity(const Model& model, const Backend& backend, const TokenWindows& windows,
                            const ForwardOptions& options) {
  expect(windows.seqlen >= 2 && windows.num_windows() > 0, "perplexity: windows of two tokens or more");
  PerplexityResult result;
  result.window_nll.assign(static_cast<std::size_t>(windows.num_windows()), 0.0);
  for_each_logits(model, backend, windows, options,
                  [&](std::int64_t w, std::int64_t first_row, ConstMatrixView logits) {
                    // Row r predicts token r + 1; the last row of a window predicts nothing that is known.
                    const std::int64_t rows = std::min(logits.rows, windows.seqlen - 1 - first_row);
                    if (rows <= 0) return;
                    std::vector<double> log_probs(static_cast<std::size_t>(rows));
                    const auto targets = windows.window(w).subspan(static_cast<std::size_t>(first_row + 1),
                                                                   static_cast<std::size_t>(rows));
                    backend.target_log_probs(logits.row_block(0, rows), targets, log_probs);
                    result.window_nll[static_cast<std::size_t>(w)] -=
                        std::accumulate(log_probs.begin(), log_probs.end(), 0.0);
                  });
  for (double& nll : result.window_nll) nll /= static_cast<double>(windows.seqlen - 1);
  result.num_tokens = windows.num_windows() * (windows.seqlen - 1);
  result.mean_nll = std::accumulate(result.window_nll.begin(), result.window_nll.end(), 0.0) /
                    static_cast<double>(windows.num_windows());
  result.perplexity = std::exp(result.mean_nll);
  return result;
}

}  // namespace swiftprune
