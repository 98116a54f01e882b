#include "swiftprune/pipeline/streams/trial_streams.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/calibration/stats_part.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/model/observed_linear.h"
#include "swiftprune/pipeline/block_edits.h"
#include "swiftprune/pipeline/relative_change.h"
#include "swiftprune/structure/unit_scores.h"

namespace swiftprune {
namespace {

using enum LinearInput;

constexpr std::int64_t kTrialWindows = 2;
constexpr std::int64_t kTrialTokens = 512;  // of each window

class CpuTrialStreams final : public TrialStreams {
 public:
  CpuTrialStreams(const Model& model, const Backend& backend, TokenWindows windows, ComputeType compute)
      : model_(model),
        backend_(backend),
        windows_(std::move(windows)),
        compute_(compute),
        ropes_(model.rope_tables(windows_.seqlen)) {}

  void restart() override {
    streams_.clear();
    streams_.push_back(model_.embed_windows(windows_, 0, windows_.num_windows()));
  }

  std::size_t fork(std::size_t stream) override {
    streams_.push_back(streams_.at(stream).clone());
    return streams_.size() - 1;
  }

  void load_block(std::int64_t layer) override {
    if (layer_ >= 0) model_.release_block(layer_);
    layer_ = layer;
    block_.emplace(model_.load_block(layer));
    block_->pack(backend_, compute_);
  }

  void run(std::size_t stream) override { forward(stream, nullptr); }

  void run_with(std::size_t stream, const KeptUnits& kept) override {
    std::vector<std::pair<LinearInput, Matrix>> whole;
    for (const LinearInput output : {kAttentionOutput, kMlpOutput}) {
      BlockLinear& linear = output_projection(*block_, output);
      const std::vector<std::int64_t> columns = kept_columns(model_.config(), block_->config(), output, kept);
      if (std::ssize(columns) == linear.tensors.inputs) continue;
      whole.emplace_back(output, linear.weight.clone());
      keep_columns(linear, columns);
      block_->pack(backend_, compute_, output);
    }
    forward(stream, nullptr);
    for (auto& [output, weight] : whole) {
      std::copy_n(weight.data(), weight.numel(), output_projection(*block_, output).weight.row(0));
      block_->pack(backend_, compute_, output);
    }
  }

  std::vector<std::vector<double>> run_scored(std::size_t stream, const std::string& score) override {
    const UnitScorer& scorer = unit_scorer(score);
    StatNeeds needs = scorer.needs;
    needs.energy = true;
    std::array<std::optional<ActivationStats>, kNumLinearInputs> stats;
    for (const LinearInput output : {kAttentionOutput, kMlpOutput}) {
      stats[static_cast<std::size_t>(output)].emplace(
          observed_width(block_->config(), output, model_.config().hidden_size), needs);
    }
    const InputObserver observer = [&](LinearInput input, ConstMatrixView x) {
      auto& of_input = stats[static_cast<std::size_t>(input)];
      for (std::int64_t row = 0; of_input && row < x.rows; row += windows_.seqlen) {
        of_input->add_window(backend_, x.row_block(row, windows_.seqlen));
      }
    };
    forward(stream, &observer);
    std::vector<std::vector<double>> scores(kNumLinearInputs);
    for (const LinearInput output : {kAttentionOutput, kMlpOutput}) {
      const auto index = static_cast<std::size_t>(output);
      stats[index]->finish(fmt::format("block {}, {}", layer_, name_of(output)));
      const BlockLinear& linear = output_projection(*block_, output);
      const StatsPart part(stats[index]->view(), linear.tensors.first_input, linear.tensors.inputs);
      scores[index] =
          score_columns(scorer, linear.weight.view(), part.stats(), linear.tensors.inputs, backend_);
    }
    return scores;
  }

  double mean_cosine(std::size_t a, std::size_t b) override {
    const auto hidden = [&](std::size_t stream) {
      return hidden_of(model_.config(), std::as_const(streams_.at(stream)).view());
    };
    return sum_of_cosines(hidden(a), hidden(b)) / static_cast<double>(hidden(a).rows);
  }

  double loss(std::size_t stream) override {
    if (!head_) head_.emplace(model_.load_head(backend_, compute_));
    const std::int64_t seqlen = windows_.seqlen, scored = seqlen - 1;
    const ConstMatrixView hidden = std::as_const(streams_.at(stream)).view();
    Matrix logits(std::min(kLogitRows, scored), model_.config().vocab_size);
    double sum = 0.0;
    for (std::int64_t w = 0; w < windows_.num_windows(); ++w) {
      for (std::int64_t row = 0; row < scored; row += kLogitRows) {
        check_interrupt();
        const std::int64_t rows = std::min(kLogitRows, scored - row);
        const MatrixView part = logits.view().row_block(0, rows);
        head_->logits(backend_, hidden.row_block(w * seqlen + row, rows), part);
        std::vector<double> log_probs(static_cast<std::size_t>(rows));
        backend_.target_log_probs(
            part,
            windows_.window(w).subspan(static_cast<std::size_t>(row + 1), static_cast<std::size_t>(rows)),
            log_probs);
        sum -= std::accumulate(log_probs.begin(), log_probs.end(), 0.0);
      }
    }
    return sum / static_cast<double>(windows_.num_windows() * scored);
  }

  std::vector<double> final_changes() override {
    const FinalNorm norm(model_.checkpoint(), model_.config());
    if (norm.present()) {
      for (Matrix& hidden : streams_) norm.apply(backend_, hidden.view(), hidden.view());
    }
    std::vector<double> changes;
    for (std::size_t i = 1; i < streams_.size(); ++i) {
      changes.push_back(relative_change(hidden_of(model_.config(), streams_.front().view()),
                                        hidden_of(model_.config(), streams_[i].view())));
    }
    return changes;
  }

 private:
  void forward(std::size_t stream, const InputObserver* observer) {
    BlockForwardOptions options;
    options.sequence_length = windows_.seqlen;
    options.observer = observer;
    for_window_groups(windows_.num_windows(), windows_.seqlen, [&](std::int64_t first, std::int64_t count) {
      check_interrupt();
      block_->forward(backend_, ropes_,
                      streams_.at(stream).view().row_block(first * windows_.seqlen, count * windows_.seqlen),
                      options);
    });
  }

  const Model& model_;
  const Backend& backend_;
  const TokenWindows windows_;
  const ComputeType compute_;
  std::vector<RopeTable> ropes_;
  std::vector<Matrix> streams_;  // [windows·seqlen, hidden]
  std::int64_t layer_ = -1;
  std::optional<DecoderBlock> block_;
  std::optional<ModelHead> head_;
};

}  // namespace

std::unique_ptr<TrialStreams> make_trial_streams(const Model& model, const Backend& backend,
                                                 TokenWindows windows, ComputeType compute) {
  return std::make_unique<CpuTrialStreams>(model, backend, std::move(windows), compute);
}

TokenWindows shortened(const TokenWindows& windows, std::int64_t count, std::int64_t length) {
  TokenWindows result;
  result.seqlen = std::min(length, windows.seqlen);
  for (std::int64_t w = 0; w < std::min(count, windows.num_windows()); ++w) {
    const auto window = windows.window(w).first(static_cast<std::size_t>(result.seqlen));
    result.ids.insert(result.ids.end(), window.begin(), window.end());
  }
  return result;
}

TokenWindows trial_text(const TokenWindows& windows) {
  return shortened(windows, kTrialWindows, kTrialTokens);
}

double sum_of_cosines(ConstMatrixView a, ConstMatrixView b) {
  double sum = 0.0;
  for (std::int64_t t = 0; t < a.rows; ++t) {
    double ab = 0.0, aa = 0.0, bb = 0.0;
    for (std::int64_t i = 0; i < a.cols; ++i) {
      ab += double{a.at(t, i)} * double{b.at(t, i)};
      aa += double{a.at(t, i)} * double{a.at(t, i)};
      bb += double{b.at(t, i)} * double{b.at(t, i)};
    }
    sum += aa > 0.0 && bb > 0.0 ? ab / std::sqrt(aa * bb) : 0.0;
  }
  return sum;
}

}  // namespace swiftprune
