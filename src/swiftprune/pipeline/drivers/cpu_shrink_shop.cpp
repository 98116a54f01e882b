// shrink_shop.h on the processor: everything is done when a call returns.
#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <utility>

#include "swiftprune/calibration/stats_part.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/core/timeline.h"
#include "swiftprune/model/observed_linear.h"
#include "swiftprune/pipeline/block_edits.h"
#include "swiftprune/pipeline/drivers/cpu_block.h"
#include "swiftprune/pipeline/drivers/shrink_shop.h"
#include "swiftprune/pipeline/streams/cpu_stream_ops.h"
#include "swiftprune/pipeline/streams/one_stream.h"
#include "swiftprune/pipeline/streams/rank_windows.h"
#include "swiftprune/pipeline/streams/two_streams.h"

namespace swiftprune {
namespace {

class CpuShrinkShop final : public ShrinkShop {
 public:
  CpuShrinkShop(const ShrinkRun& run, const Backend& backend)
      : run_(run),
        backend_(backend),
        windows_(
            windows_of_rank(run.windows, rank_windows(run.model.config(), run.windows, *run.options.ranks))),
        ops_(run.model, backend, windows_),
        block_(run.model, backend, run.options.compute) {
    run.aligned() ? void(two_.emplace(ops_)) : void(one_.emplace(ops_));
  }

  void load(std::int64_t layer) override {
    const Stopwatch watch(run_.seconds.load);
    const TimelineStage stage("read", layer);
    block_.load(layer, run_.aligned());
    for (BlockLinear& linear : block_->linears()) {
      const auto& added = run_.added_biases;
      if (linear.tensors.bias || std::count(added.begin(), added.end(), output_of(linear.tensors.input)) == 0)
        continue;
      linear.tensors.bias = true;
      linear.bias.assign(static_cast<std::size_t>(linear.tensors.outputs), 0.0f);
    }
    originals_ = {};
  }

  void silence() override { swiftprune::silence(*block_); }
  bool norms_output(LinearInput output) const override { return block_->norms_output(output); }
  bool has_bias(LinearInput output) const override { return !projection(output).bias.empty(); }

  void start_block() override {
    if (run_.aligned()) block_.pack_dense();
    block_.pack();
    run_.aligned() ? two_->start_block(block_.dense(), *block_) : one_->start_block(*block_);
  }

  void collect(LinearInput input, const StatNeeds* needs, bool residual) override {
    block_.pack();
    stats_.reset();
    if (needs != nullptr) {
      stats_.emplace(observed_width(block_->config(), input, run_.model.config().hidden_size), *needs,
                     residual ? run_.model.config().hidden_size : 0, run_.options.compute,
                     run_.options.ranks->size() > 1);
    }
    ActivationStats* stats = stats_ ? &*stats_ : nullptr;
    run_.aligned() ? two_->collect(input, stats) : one_->collect(input, stats);
    if (stats == nullptr) return;
    if (run_.options.ranks->size() > 1) stats->combine(backend_, *run_.options.ranks);
    stats->finish(fmt::format("block {}, {}", block_.layer(), name_of(input)));
  }

  void refit_readers(LinearInput input, const RefitOptions& options) override {
    Communicator& ranks = *run_.options.ranks;
    const std::vector<BlockLinear*> linears = readers(input);
    const auto owner_of = [&](std::size_t i) { return static_cast<int>(i) % ranks.size(); };
    for (std::size_t i = 0; i < linears.size(); ++i) {
      if (owner_of(i) != ranks.rank()) continue;
      std::vector<std::int64_t> all(static_cast<std::size_t>(linears[i]->tensors.inputs));
      std::iota(all.begin(), all.end(), 0);
      linears[i]->weight = refit(*linears[i], all, options);
    }
    for (std::size_t i = 0; i < linears.size(); ++i) {
      ranks.broadcast(owner_of(i), std::as_writable_bytes(linears[i]->weight.values()));
      changed(*linears[i]);
    }
  }

  std::vector<double> unit_scores(LinearInput output, std::int64_t num_kept) override {
    const BlockLinear& linear = projection(output);
    return score_columns(run_.scorer, linear.weight.view(), part_of(linear).stats(), num_kept, backend_);
  }

  void refit_columns(LinearInput output, std::span<const std::int64_t> columns,
                     const RefitOptions& options) override {
    BlockLinear& linear = keep_original(output);
    spread_columns(refit(linear, columns, options).view(), columns, linear.weight.view());
    changed(linear);
  }

  void keep_columns(LinearInput output, std::span<const std::int64_t> columns) override {
    BlockLinear& linear = keep_original(output);
    swiftprune::keep_columns(linear, columns);
    changed(linear);
  }

  std::vector<float> mean_error(LinearInput output) override {
    const Matrix& original = originals_[static_cast<std::size_t>(output)];
    const BlockLinear& linear = projection(output);
    return swiftprune::mean_error(original.view(), linear.weight.view(), part_of(linear).stats());
  }

  std::vector<float> bias(LinearInput output) override { return projection(output).bias; }

  void set_bias(LinearInput output, std::vector<float> bias) override {
    BlockLinear& linear = output_projection(*block_, output);
    round_to(linear.dtype, bias);
    linear.bias = std::move(bias);
    block_.changed(output);
  }

  void pass() override {
    block_.pack();
    run_.aligned() ? two_->finish_block() : one_->finish_block();
  }

  void write(const ShrunkBlock& block) override {
    const Stopwatch watch(run_.seconds.write);
    const TimelineStage stage("write", block.layer);
    const std::vector<KeptPart> parts = kept_parts(run_.model.config(), block_->config(), block.kept);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const BlockLinear& linear = block_->linears()[i];
      Matrix kept = take_rows(linear.weight.view(), parts[i].rows);
      if (!parts[i].columns.empty()) kept = take_columns(std::as_const(kept).view(), parts[i].columns);
      write_tensor(run_.output, linear.tensors.name + ".weight", linear.dtype, std::as_const(kept).values());
      if (!linear.tensors.bias) continue;
      std::vector<float> bias;
      for (const std::int64_t row : parts[i].rows) bias.push_back(linear.bias[static_cast<std::size_t>(row)]);
      run_.output.write_bias(linear.tensors.name + ".bias", bias);
    }
  }

  void finish() override { block_.release(); }

 private:
  const BlockLinear& projection(LinearInput output) const { return output_projection(*block_, output); }

  std::vector<BlockLinear*> readers(LinearInput input) {
    std::vector<BlockLinear*> result;
    for (BlockLinear& linear : block_->linears()) {
      if (linear.tensors.input == input) result.push_back(&linear);
    }
    return result;
  }

  // What the linear reads of the input in hand.
  StatsPart part_of(const BlockLinear& linear) const {
    return StatsPart(stats_->view(), linear.tensors.first_input, linear.tensors.inputs);
  }

  Matrix refit(const BlockLinear& linear, std::span<const std::int64_t> columns,
               const RefitOptions& options) const {
    return swiftprune::refit_columns(linear.weight.view(), part_of(linear).stats(), columns, options,
                                     backend_, linear.tensors.name + ".weight");
  }

  BlockLinear& keep_original(LinearInput output) {
    BlockLinear& linear = output_projection(*block_, output);
    originals_[static_cast<std::size_t>(output)] = linear.weight.clone();
    return linear;
  }

  // As the file will hold it.
  void changed(BlockLinear& linear) {
    round_to(linear.dtype, linear.weight.values());
    block_.changed(linear.tensors.input);
  }

  const ShrinkRun& run_;
  const Backend& backend_;
  const TokenWindows windows_;  // this rank's
  CpuStreamOps ops_;
  std::optional<OneStream<CpuStreamOps>> one_;
  std::optional<TwoStreams<CpuStreamOps>> two_;
  CpuBlock block_;
  std::optional<ActivationStats> stats_;            // of the input in hand
  std::array<Matrix, kNumLinearInputs> originals_;  // output projections as they were loaded
};

}  // namespace

ShrinkShopMaker cpu_shrink_shop(const Backend& backend) {
  return [&backend](const ShrinkRun& run) { return std::make_unique<CpuShrinkShop>(run, backend); };
}

}  // namespace swiftprune
