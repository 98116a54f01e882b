// prune_shop.h on the processor: everything is done when a call returns.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "swiftprune/core/progress.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/pipeline/block_edits.h"
#include "swiftprune/pipeline/drivers/cpu_block.h"
#include "swiftprune/pipeline/drivers/prune_shop.h"
#include "swiftprune/pipeline/streams/cpu_stream_ops.h"
#include "swiftprune/pipeline/streams/two_streams.h"
#include "swiftprune/pipeline/streams/whole_stream.h"
#include "swiftprune/refinement/layer_error.h"
#include "swiftprune/refinement/refiner.h"
#include "swiftprune/scoring/scorer.h"

namespace swiftprune {
namespace {

class CpuPruneShop final : public PruneShop {
 public:
  CpuPruneShop(const PruneRun& run, const Backend& backend)
      : run_(run),
        backend_(backend),
        ops_(run.model, backend, run.windows),
        selector_(make_selector(run.options.select, run.options.selector)),
        block_(run.model, backend, run.options.compute) {
    if (run.row_budgets) {
      run.options.readers.empty() ? row_effects_.emplace(run.model)
                                  : row_effects_.emplace(run.model, run.options.readers);
    }
    if (!run.calibrated) return;
    const Stopwatch watch(run.seconds.calibrate);
    run.aligned ? void(two_.emplace(ops_)) : void(one_.emplace(ops_));
  }

  void load(std::int64_t layer) override {
    const Stopwatch watch(run_.seconds.load);
    block_.load(layer, run_.aligned);
    outcomes_.assign(block_->linears().size(), {});
    quantized_.clear();
    quantized_.resize(block_->linears().size());
  }

  void load_finished(const FinishedBlock& finished) override {
    for (BlockLinear& linear : block_->linears()) {
      const std::string name = linear.tensors.name + ".weight";
      const bool found = std::any_of(finished.tensors.begin(), finished.tensors.end(),
                                     [&](const TensorResult& tensor) { return tensor.name == name; });
      if (found) run_.output.read(name, linear.weight.values());
    }
  }

  bool norms_output(LinearInput output) const override { return block_->norms_output(output); }

  void look(const NeedsOfInputs& needs, bool passes) override {
    block_.pack();
    WholeStream<CpuStreamOps>::StatsOfInputs stats{};
    for (std::size_t i = 0; i < needs.size(); ++i) {
      if (needs[i].any()) stats[i] = &start_stats(static_cast<LinearInput>(i), needs[i], false);
    }
    passes ? one_->pass(*block_, stats) : one_->look(*block_, stats);
    for (std::size_t i = 0; i < needs.size(); ++i) finish_stats(static_cast<LinearInput>(i));
  }

  void start_block() override {
    block_.pack_dense();
    block_.pack();
    two_->start_block(block_.dense(), *block_);
  }

  void collect(LinearInput input, const StatNeeds* needs, bool residual) override {
    block_.pack();
    two_->collect(input, needs != nullptr ? &start_stats(input, *needs, residual) : nullptr);
    finish_stats(input);
  }

  void start_input(LinearInput input) override {
    const auto& stats = stats_of(input);
    input_stats_ = stats ? stats->view() : LayerStats{};
  }

  std::vector<std::vector<float>> row_effects(LinearInput input) override {
    return row_effects_->of(backend_, *block_, block_.layer(), input, input_stats_);
  }

  std::vector<std::int64_t> threshold_counts(std::size_t linear, std::span<const float> effects,
                                             const PruneTarget& target) override {
    return row_threshold_counts(block_->linears()[linear].weight.view(), input_stats_.energy, effects,
                                target);
  }

  void select(std::size_t linear, const PlanEntry& entry, const PruneTarget& target,
              bool masks_only) override {
    BlockLinear& of = block_->linears()[linear];
    check_finite(of.weight.view(), entry.tensor);
    const Matrix dense = masks_only ? Matrix() : of.weight.clone();
    Scores scores;
    {
      const Stopwatch watch(run_.seconds.score);
      scores = make_scorer(entry.score)
                   ->score(weight_view(of.weight.view()), input_stats_, backend_, entry.tensor);
    }
    {
      const Stopwatch watch(run_.seconds.select);
      const MutableWeightView weight = mutable_weight_view(of.weight.view());
      Selection selection = masks_only ? selector_->select(scores.view(weight_view(of.weight.view())), target)
                                       : selector_->prune(weight, scores, target);
      outcomes_[linear].lambda = selection.report.lambda;
      mask_ = std::move(selection.mask);
    }
    if (!masks_only) finish_linear(linear, entry, dense);
  }

  void refine(std::size_t linear, const PlanEntry& entry, const PruneTarget& target) override {
    BlockLinear& of = block_->linears()[linear];
    check_finite(of.weight.view(), entry.tensor);
    const auto refiner = make_refiner(entry.refine);
    Matrix dense;
    {
      const Stopwatch watch(run_.seconds.refine);
      const PreparedGram& prepared = this->prepared(entry, *refiner);
      RefineTask task;
      task.weight = of.weight.view();
      task.mask = refiner->uses_mask() ? &mask_ : nullptr;
      task.target = target;
      task.grid = entry.grid;
      Refinement refined = refiner->refine(task, prepared, backend_);
      if (refined.report.damping_raised > 0) outcomes_[linear].damping = refined.report.damping;
      dense = std::exchange(of.weight, std::move(refined.weight));
      quantized_[linear] = std::move(refined.quantized);
    }
    finish_linear(linear, entry, dense);
  }

  void end_input(LinearInput input) override {
    prepared_.clear();
    stats_of(input).reset();
    input_stats_ = {};
  }

  void end_linears() override {}

  void pass() override {
    block_.pack();
    run_.aligned ? two_->finish_block() : one_->pass(*block_);
  }

  std::vector<LinearOutcome> outcomes() override { return outcomes_; }

  void write(std::size_t linear) override {
    const Stopwatch watch(run_.seconds.write);
    const BlockLinear& of = block_->linears()[linear];
    if (quantized_[linear] && run_.output.keeps_grids()) {
      run_.output.write_quantized(of.tensors.name + ".weight", *quantized_[linear]);
      return;
    }
    write_tensor(run_.output, of.tensors.name + ".weight", of.dtype, of.weight.values());
  }

  void end_block(FinishedBlock block) override { run_.output.finish(block); }
  void finish() override { block_.release(); }

 private:
  std::optional<ActivationStats>& stats_of(LinearInput input) {
    return stats_[static_cast<std::size_t>(input)];
  }

  ActivationStats& start_stats(LinearInput input, const StatNeeds& needs, bool residual) {
    const auto reads = std::find_if(block_->linears().begin(), block_->linears().end(),
                                    [&](const BlockLinear& linear) { return linear.tensors.input == input; });
    return stats_of(input).emplace(reads->tensors.inputs, needs,
                                   residual ? run_.model.config().hidden_size : 0, run_.options.compute);
  }

  void finish_stats(LinearInput input) {
    if (auto& stats = stats_of(input))
      stats->finish(fmt::format("block {}, {}", block_.layer(), name_of(input)));
  }

  // Linears that share an input share what the refinement derives from its Gram matrix.
  const PreparedGram& prepared(const PlanEntry& entry, const Refiner& refiner) {
    const bool on_grid = entry.grid.has_value();
    for (const Prepared& prepared : prepared_) {
      if (prepared.refine == entry.refine && prepared.on_grid == on_grid) return *prepared.gram;
    }
    prepared_.push_back(
        {entry.refine, on_grid, refiner.prepare(input_stats_, backend_, entry.tensor, on_grid)});
    return *prepared_.back().gram;
  }

  // The weights are what the file will hold; dense: what they were.
  void finish_linear(std::size_t linear, const PlanEntry& entry, const Matrix& dense) {
    BlockLinear& of = block_->linears()[linear];
    block_.changed(entry.input);
    if (!quantized_[linear] || !run_.output.keeps_grids()) round_to(of.dtype, of.weight.values());
    check_finite(of.weight.view(), entry.tensor);
    {
      const Stopwatch watch(run_.seconds.refine);
      outcomes_[linear].error = output_error(dense.view(), of.weight.view(), input_stats_, backend_);
    }
    const auto values = std::as_const(of.weight).values();
    outcomes_[linear].zeros = std::count(values.begin(), values.end(), 0.0f);
  }

  const PruneRun& run_;
  const Backend& backend_;
  CpuStreamOps ops_;
  std::unique_ptr<Selector> selector_;
  std::optional<RowEffects> row_effects_;  // where the plan has row budgets
  std::optional<WholeStream<CpuStreamOps>> one_;
  std::optional<TwoStreams<CpuStreamOps>> two_;
  CpuBlock block_;
  std::array<std::optional<ActivationStats>, kNumLinearInputs> stats_;
  LayerStats input_stats_;  // of the input in hand
  struct Prepared {
    RefineSpec refine;
    bool on_grid = false;
    std::unique_ptr<PreparedGram> gram;
  };
  std::vector<Prepared> prepared_;                         // for that input
  Mask mask_;                                              // of the linear in hand
  std::vector<LinearOutcome> outcomes_;                    // by linear
  std::vector<std::optional<QuantizedWeight>> quantized_;  // by linear; those on a grid
};

}  // namespace

PruneShopMaker cpu_prune_shop(const Backend& backend) {
  return [&backend](const PruneRun& run) { return std::make_unique<CpuPruneShop>(run, backend); };
}

}  // namespace swiftprune
