#include "swiftprune/pipeline/scored_forward.h"

#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/structure/unit_scores.h"

namespace swiftprune {

void forward_windows(const DecoderBlock& block, const Backend& backend, const std::vector<RopeTable>& ropes,
                     std::int64_t seqlen, MatrixView hidden, const InputObserver* observer) {
  BlockForwardOptions options;
  options.sequence_length = seqlen;
  options.observer = observer;
  check_interrupt();
  block.forward(backend, ropes, hidden, options);
}

std::vector<std::vector<double>> forward_scored(const DecoderBlock& block, const Backend& backend,
                                                const std::vector<RopeTable>& ropes, std::int64_t seqlen,
                                                const std::string& score, MatrixView hidden) {
  const UnitScorer& scorer = unit_scorer(score);
  std::vector<std::vector<double>> scores(kNumLinearInputs);
  const InputObserver observer = [&](LinearInput input, ConstMatrixView x) {
    if (input != LinearInput::kAttentionOutput && input != LinearInput::kMlpOutput) return;
    StatNeeds needs = scorer.needs;
    needs.energy = true;
    ActivationStats stats(x.cols, needs);
    for (std::int64_t row = 0; row < x.rows; row += seqlen) {
      stats.add_window(backend, x.row_block(row, seqlen));
    }
    stats.finish(name_of(input));
    for (const BlockLinear& linear : block.linears()) {
      if (linear.tensors.input != input) continue;
      scores[static_cast<std::size_t>(input)] =
          scorer.score(linear.weight.view(), stats.view(), x.cols, backend);
    }
  };
  forward_windows(block, backend, ropes, seqlen, hidden, &observer);
  return scores;
}

}  // namespace swiftprune
