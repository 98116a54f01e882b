// pipeline/streams/trial_streams.h on the device.
#include <algorithm>
#include <array>
#include <numeric>
#include <optional>

#include "swiftprune/core/progress.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/forward/head.h"
#include "swiftprune/cuda/pipeline/block_slots.h"
#include "swiftprune/cuda/pipeline/stream_ops.h"
#include "swiftprune/cuda/stages.h"
#include "swiftprune/cuda/structure/structure_kernels.h"
#include "swiftprune/cuda/structure/unit_scores.h"
#include "swiftprune/model/observed_linear.h"

namespace swiftprune::cuda {
namespace {

using enum LinearInput;

class DeviceTrialStreams final : public TrialStreams {
 public:
  DeviceTrialStreams(const Model& model, TokenWindows windows, ComputeType compute, const GpuOptions& device)
      : model_(model),
        windows_(std::move(windows)),
        device_(device.index),
        memory_(device.memory_bytes),
        compute_(compute == ComputeType::kBF16 ? DType::kBF16 : DType::kF32),
        products_(memory_, stream_) {}

  // Memory is taken here, since many requests need no trials.
  void restart() override {
    check(cudaSetDevice(device_));
    if (!forward_) {
      slots_.emplace(memory_, model_, compute_, device_, stream_);
      forward_.emplace(memory_, products_, model_, rows_per_pass(windows_), windows_.seqlen, compute_,
                       stream_);
    }
    streams_.clear();
    streams_.push_back(embed(memory_, model_, windows_, stream_));
  }

  std::size_t fork(std::size_t stream) override {
    const DeviceView from = streams_.at(stream).view();
    streams_.emplace_back(memory_, DType::kF32, from.rows, from.cols, "the hidden states of the trials");
    copy(from, streams_.back().view(), stream_);
    return streams_.size() - 1;
  }

  void load_block(std::int64_t layer) override {
    slots_->load(layer, layer + 1 < model_.config().num_layers() ? layer + 1 : -1);
    layer_ = layer;
  }

  void run(std::size_t stream) override { forward(block(), stream, nullptr); }

  void run_with(std::size_t stream, const KeptUnits& kept) override {
    if (!cut_) {
      cut_.emplace(memory_, model_, compute_);
      columns_.emplace(memory_, output_sizes(model_).cols, stream_);
    }
    cut_->copy_from(block(), stream_);
    for (const LinearInput output : {kAttentionOutput, kMlpOutput}) {
      const DeviceView weight = cut_->weight(cut_->output_projection(output));
      const std::vector<std::int64_t> columns = kept_columns(
          model_.config(), model_.config().blocks[static_cast<std::size_t>(layer_)], output, kept);
      if (std::ssize(columns) == weight.cols) continue;
      columns_->set(columns, weight.cols);
      keep_columns(columns_->place(), weight.rows, weight.cols, weight.data, weight.dtype, stream_);
      cut_->refresh(output, stream_);
    }
    forward(*cut_, stream, nullptr);
  }

  std::vector<std::vector<double>> run_scored(std::size_t stream, const std::string& score) override {
    const UnitScorer& scorer = unit_scorer(score);
    prepare_scores(scorer);
    StatNeeds needs = scorer.needs;
    needs.energy = true;
    const std::array outputs = {kAttentionOutput, kMlpOutput};
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      stats_[i]->start(observed_width(block().config(), outputs[i], model_.config().hidden_size), needs,
                       moments_[i], 0);
    }
    const DeviceObserver observer = [&](LinearInput input, DeviceView x) {
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        if (input != outputs[i]) continue;
        stats_[i]->add_windows(products_, *scratch_, x, x, windows_.seqlen);
      }
    };
    forward(block(), stream, &observer);
    std::vector<std::vector<double>> scores(kNumLinearInputs);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      stats_[i]->finish(fmt::format("block {}, {}", layer_, name_of(outputs[i])));
      const DeviceView weight = block().weight(block().output_projection(outputs[i]));
      const DeviceStats* stats = &*stats_[i];
      if (stats->inputs() != weight.cols) {  // the first of two that read a part each
        part_stats_->take_part(*stats, 0, weight.cols, part_moments_);
        stats = &*part_stats_;
      }
      scores[static_cast<std::size_t>(outputs[i])] = scores_->score(scorer, weight, *stats, weight.cols);
    }
    return scores;
  }

  double mean_cosine(std::size_t a, std::size_t b) override {
    const Matrix first = download(a), second = download(b);
    const auto hidden = [&](const Matrix& rows) {
      return hidden_of(model_.config(), ConstMatrixView(rows.view()));
    };
    return sum_of_cosines(hidden(first), hidden(second)) / static_cast<double>(first.rows());
  }

  double loss(std::size_t stream) override {
    if (!head_) head_.emplace(memory_, products_, model_, compute_, 0, stream_);
    const DeviceView hidden = hidden_of(model_.config(), streams_.at(stream).view());
    double sum = 0.0;
    for (std::int64_t w = 0; w < windows_.num_windows(); ++w) {
      check_interrupt();
      sum += head_->loss(windows_.window(w), hidden.row_block(w * windows_.seqlen, windows_.seqlen), 1);
    }
    return sum / static_cast<double>(windows_.num_windows() * (windows_.seqlen - 1));
  }

  std::vector<double> final_changes() override {
    const DeviceFinalNorm norm(memory_, model_, stream_);
    const auto hidden = [&](const DeviceMatrix& rows) { return hidden_of(model_.config(), rows.view()); };
    for (const DeviceMatrix& rows : streams_) norm.apply(hidden(rows));
    const DeviceView dense = hidden(streams_.front());
    const DeviceBuffer ratios(memory_, static_cast<std::uint64_t>(dense.rows) * sizeof(double), "changes");
    std::vector<double> host(static_cast<std::size_t>(dense.rows));
    std::vector<double> changes;
    for (std::size_t i = 1; i < streams_.size(); ++i) {
      relative_changes(strided(dense), strided(hidden(streams_[i])), dense.rows, dense.cols,
                       ratios.as<double>(), stream_);
      check(cudaMemcpyAsync(host.data(), ratios.data(), ratios.bytes(), cudaMemcpyDeviceToHost, stream_));
      stream_.synchronize();
      changes.push_back(std::accumulate(host.begin(), host.end(), 0.0) / static_cast<double>(dense.rows));
    }
    stream_.synchronize();
    return changes;
  }

 private:
  BlockWeights& block() { return slots_->block(); }

  void forward(const BlockWeights& block, std::size_t stream, const DeviceObserver* observer) {
    const DeviceView hidden = streams_.at(stream).view();
    for_passes(windows_, [&](std::int64_t first, std::int64_t rows) {
      forward_->run(block, hidden.row_block(first, rows), observer);
    });
  }

  Matrix download(std::size_t stream) {
    const DeviceView hidden = streams_.at(stream).view();
    Matrix host(hidden.rows, hidden.cols);
    check(cudaMemcpyAsync(host.data(), hidden.data, host.values().size_bytes(), cudaMemcpyDeviceToHost,
                          stream_));
    stream_.synchronize();
    return host;
  }

  void prepare_scores(const UnitScorer& scorer) {
    const OutputSizes sizes = output_sizes(model_);
    if (!energies_) {
      energies_.emplace(memory_, model_, stream_);
      const std::int64_t widest = widest_input(model_.config());
      scratch_.emplace(memory_, compute_, rows_per_pass(windows_), widest, 0, 0);
      for (auto& stats : stats_) stats.emplace(memory_, widest, stream_);
      if (model_.config().has_recurrent_blocks()) part_stats_.emplace(memory_, sizes.cols, stream_);
    }
    const bool needs_fit = scorer.needs.gram && !fit_;
    if (needs_fit) {
      fit_.emplace(memory_, products_, *energies_, sizes.cols, sizes.numel, stream_);
      const auto gram = [&](std::int64_t n) {
        return DeviceBuffer(memory_, static_cast<std::uint64_t>(n * n) * sizeof(float), "Gram matrices");
      };
      for (Moments& moments : moments_) moments.gram = gram(widest_input(model_.config()));
      if (part_stats_) part_moments_.gram = gram(sizes.cols);
    }
    if (!scores_ || needs_fit) scores_.emplace(memory_, *energies_, fit_ ? &*fit_ : nullptr, model_, stream_);
  }

  const Model& model_;
  const TokenWindows windows_;
  const int device_;
  DeviceMemory memory_;
  Stream stream_;
  const DType compute_;
  Products products_;
  std::optional<BlockSlots> slots_;
  std::int64_t layer_ = -1;
  std::optional<BlockForward> forward_;
  std::vector<DeviceMatrix> streams_;  // [windows·seqlen, row_size]
  std::optional<BlockWeights> cut_;
  std::optional<KeptColumns> columns_;
  std::optional<ColumnEnergies> energies_;
  std::optional<StatisticsScratch> scratch_;
  std::optional<DeviceColumnFit> fit_;
  std::array<Moments, 2> moments_;
  std::array<std::optional<DeviceStats>, 2> stats_;
  std::optional<DeviceStats> part_stats_;
  Moments part_moments_;
  std::optional<DeviceUnitScores> scores_;
  std::optional<DeviceHead> head_;
};

}  // namespace

std::unique_ptr<TrialStreams> make_trial_streams(const Model& model, TokenWindows windows,
                                                 ComputeType compute, const GpuOptions& device) {
  check(cudaSetDevice(device.index));
  return std::make_unique<DeviceTrialStreams>(model, std::move(windows), compute, device);
}

}  // namespace swiftprune::cuda
