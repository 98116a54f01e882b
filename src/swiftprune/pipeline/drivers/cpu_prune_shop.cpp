// prune_shop.h on the processor: everything is done when a call returns, but for what ranks refine together: that is
// done when the input ends.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <utility>

#include "swiftprune/calibration/stats_part.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/core/timeline.h"
#include "swiftprune/model/adapter.h"
#include "swiftprune/model/observed_linear.h"
#include "swiftprune/pipeline/block_edits.h"
#include "swiftprune/pipeline/drivers/channel_orders.h"
#include "swiftprune/pipeline/drivers/cpu_block.h"
#include "swiftprune/pipeline/drivers/linear_numbers.h"
#include "swiftprune/pipeline/drivers/prune_shop.h"
#include "swiftprune/pipeline/drivers/shared_refinement.h"
#include "swiftprune/pipeline/streams/cpu_stream_ops.h"
#include "swiftprune/pipeline/streams/expert_stream.h"
#include "swiftprune/pipeline/streams/rank_windows.h"
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
        share_(rank_windows(run.model.config(), run.windows, *run.options.ranks)),
        windows_(windows_of_rank(run.windows, share_)),
        ops_(run.model, backend, windows_),
        selector_(make_selector(run.options.select, run.options.selector)),
        block_(run.model, backend, run.options.compute),
        experts_(ops_, windows_, expert_part_ends(run.windows, share_)),
        shared_(run, backend),
        orders_(run, backend, *selector_) {
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
    const TimelineStage stage("read", layer);
    block_.load(layer, run_.aligned);
    numbers_.emplace(block_->config());
    outcomes_.assign(numbers_->size(), {});
    quantized_.clear();
    quantized_.resize(outcomes_.size());
    finished_.clear();
    orders_.start_block(layer);
  }

  void load_finished(const FinishedBlock& finished) override {
    for (const TensorResult& tensor : finished.tensors) finished_.emplace(tensor.name, tensor.low_rank);
    orders_.start_block(finished.layer, &finished);
    for (std::size_t i = 0; i < block_->linears().size(); ++i) {
      BlockLinear& linear = block_->linears()[i];
      if (read_finished(linear)) orders_.from_file(i, linear.weight.view());
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
    ActivationStats* stats = needs != nullptr ? &start_stats(input, *needs, residual) : nullptr;
    if (block_->experts() == nullptr || input != LinearInput::kMlpOutput) {
      two_->collect(input, stats);
    } else if (stats != nullptr) {
      experts_.collect_shared(*stats, *block_, two_->hidden(), block_.dense(), two_->dense_hidden());
    }
    finish_stats(input);
  }

  std::vector<std::int64_t> start_experts(bool passes) override {
    experts_pass_ = passes;
    if (!run_.calibrated) return {};
    const Stopwatch watch(run_.seconds.calibrate);
    block_.pack();
    Matrix& hidden = run_.aligned ? two_->hidden() : one_->hidden();
    if (!run_.aligned) experts_.pass_attention(*block_, hidden);
    experts_.start(*block_, hidden, passes);
    if (run_.aligned) experts_.start_beside(block_.dense(), two_->dense_hidden());
    std::vector<std::int64_t> tokens = experts_.num_tokens();
    add_counts(*run_.options.ranks, tokens);
    return tokens;
  }

  void start_expert(std::int64_t expert, const NeedsOfInputs& needs, bool pooled) override {
    check_interrupt();
    {
      const Stopwatch watch(run_.seconds.load);
      expert_index_ = expert;
      expert_.emplace(block_->experts()->load_float(expert));
      for (const ExpertPart part : parts_of(*block_->config().experts)) read_finished(expert_->linear(part));
    }
    if (!run_.calibrated) return;
    const Stopwatch watch(run_.seconds.calibrate);
    expert_->pack(backend_, run_.options.compute);
    std::array<ActivationStats*, 2> wanted{};
    bool by_window = false;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const LinearInput input = kExpertInputs[i];
      const StatNeeds& of_input = needs[static_cast<std::size_t>(input)];
      if (of_input.any()) wanted[i] = &start_stats(input, of_input, false);
      by_window |= of_input.ewma_energy;
    }
    experts_.collect({expert, pooled, by_window}, *expert_, wanted[0], wanted[1]);
    for (const LinearInput input : kExpertInputs) finish_stats(input);
  }

  void collect_expert(LinearInput input, const StatNeeds& needs, bool pooled) override {
    const Stopwatch watch(run_.seconds.calibrate);
    expert_->pack(backend_, run_.options.compute);
    ActivationStats& stats = start_stats(input, needs, false);
    experts_.collect_aligned({expert_index_, pooled, needs.ewma_energy}, *expert_, input, stats);
    finish_stats(input);
  }

  void end_expert() override {
    const std::int64_t expert = std::exchange(expert_index_, -1);
    if (run_.calibrated && experts_pass_) {
      const Stopwatch watch(run_.seconds.calibrate);
      if (run_.aligned || run_.options.propagation == Propagation::kPruned) {
        expert_->pack(backend_, run_.options.compute);
        experts_.add_outputs(expert, *expert_);
      } else {
        block_->experts()->use(backend_, expert,
                               [&](const Expert& dense) { experts_.add_outputs(expert, dense); });
      }
    }
    expert_.reset();
    block_->experts()->tensors().release(expert);
  }

  void end_experts() override {
    if (!run_.calibrated) return;
    const Stopwatch watch(run_.seconds.calibrate);
    experts_.finish();
    if (run_.aligned) two_->leave_block();
  }

  void start_input(LinearInput input) override {
    auto& stats = stats_of(input);
    if (!expert_) orders_.start_input(*block_, input, stats);
    input_stats_ = stats ? stats->view() : LayerStats{};
  }

  std::vector<std::vector<float>> row_effects(LinearInput input) override {
    return row_effects_->of(backend_, *block_, block_.layer(), input, input_stats_);
  }

  std::vector<std::int64_t> threshold_counts(std::size_t linear, std::span<const float> effects,
                                             const PruneTarget& target) override {
    const BlockLinear& of = block_->linears()[linear];
    const auto energy = input_stats_.energy.subspan(static_cast<std::size_t>(of.tensors.first_input),
                                                    static_cast<std::size_t>(of.tensors.inputs));
    return row_threshold_counts(of.weight.view(), energy, effects, target);
  }

  void select(std::size_t linear, const PlanEntry& entry, const PruneTarget& target,
              bool masks_only) override {
    BlockLinear& of = this->linear(linear);
    check_finite(of.weight.view(), entry.tensor);
    const Matrix dense = masks_only ? Matrix() : of.weight.clone();
    Scores scores;
    {
      const Stopwatch watch(run_.seconds.score);
      scores = make_scorer(entry.score)
                   ->score(weight_view(of.weight.view()), stats_for(entry), backend_, entry.tensor);
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
    if (!shared_.takes(entry)) return refine_here(linear, entry, target);
    const BlockLinear& of = this->linear(linear);
    check_finite(of.weight.view(), entry.tensor);
    shared_.add(linear, of.weight.view(), entry, target, std::move(mask_));
  }

  Aside solve_aside(std::size_t linear, const PlanEntry& entry, const PruneTarget& target) override {
    BlockLinear& of = this->linear(linear);
    Matrix dense = of.weight.clone();
    const LinearOutcome before = outcomes_[linear];
    if (entry.refine.facts().uses_mask) select(linear, entry, target, !entry.refine.is_none());
    if (!entry.refine.is_none()) refine_here(linear, entry, target);
    quantized_[linear].reset();
    return {std::exchange(of.weight, std::move(dense)), std::exchange(outcomes_[linear], before)};
  }

  void end_input(LinearInput input) override {
    for (SharedRefinement::Result& result : refine_shared()) {
      outcomes_[result.linear].damping = result.damping;
      const Matrix dense = std::exchange(this->linear(result.linear).weight, std::move(result.weight));
      finish_linear(result.linear, *result.entry, dense);
    }
    if (!expert_) orders_.end_input(*block_, input);
    prepared_.clear();
    parts_.clear();
    stats_of(input).reset();
    input_stats_ = {};
  }

  void end_linears() override {}

  void pass() override {
    block_.pack();
    run_.aligned ? two_->finish_block() : one_->pass(*block_);
  }

  std::vector<LinearOutcome> outcomes() override {
    for (std::size_t i = 0; i < block_->linears().size(); ++i) outcomes_[i].order = orders_.of_inputs(i);
    return outcomes_;
  }

  void write(std::size_t linear) override {
    const Stopwatch watch(run_.seconds.write);
    const TimelineStage stage("write", block_.layer());
    const BlockLinear& of = this->linear(linear);
    if (quantized_[linear] && run_.output.keeps_grids()) {
      run_.output.write_quantized(of.tensors.name + ".weight", *quantized_[linear]);
      quantized_[linear].reset();
      return;
    }
    write_weight(linear, of);
    quantized_[linear].reset();
    if (!of.low_rank) return;
    write_tensor(run_.output, adapter_left_name(of.tensors.name), of.dtype, of.low_rank->left.values());
    write_tensor(run_.output, adapter_right_name(of.tensors.name), of.dtype, of.low_rank->right.values());
  }

  void end_block(FinishedBlock block) override {
    write_reordered(block);
    run_.output.finish(block);
  }
  void finish() override { block_.release(); }

 private:
  static constexpr std::array kExpertInputs = {LinearInput::kMlp, LinearInput::kMlpOutput};

  // By number (linear_numbers.h); of those of experts the one in hand is there.
  BlockLinear& linear(std::size_t index) {
    if (!numbers_->is_of_expert(index)) return block_->linears()[index];
    expect(numbers_->expert(index) == expert_index_, "linear: of the expert in hand");
    return expert_->linear(parts_of(*block_->config().experts)[numbers_->part(index)]);
  }

  // By this process alone.
  void refine_here(std::size_t linear, const PlanEntry& entry, const PruneTarget& target) {
    BlockLinear& of = this->linear(linear);
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
      task.low_rank = entry.low_rank;
      Refinement refined = refiner->refine(task, prepared, backend_);
      if (refined.report.damping_raised > 0) outcomes_[linear].damping = refined.report.damping;
      dense = std::exchange(of.weight, std::move(refined.weight));
      quantized_[linear] = std::move(refined.quantized);
      of.low_rank = std::move(refined.low_rank);
    }
    finish_linear(linear, entry, dense);
  }

  void write_weight(std::size_t linear, const BlockLinear& of) {
    const std::string name = of.tensors.name + ".weight";
    if (!orders_.changes(linear)) return write_tensor(run_.output, name, of.dtype, of.weight.values());
    Matrix weight = of.weight.clone();
    orders_.to_file(linear, weight.view(), {});
    write_tensor(run_.output, name, of.dtype, std::as_const(weight).values());
  }

  // What makes reordered inputs and is not among the block's pruned tensors.
  void write_reordered(FinishedBlock& block) {
    for (std::size_t i = 0; i < block_->linears().size(); ++i) {
      if (!orders_.moves_rows(i)) continue;
      const BlockLinear& linear = block_->linears()[i];
      const std::string weight = linear.tensors.name + ".weight", bias = linear.tensors.name + ".bias";
      const bool written = std::any_of(block.tensors.begin(), block.tensors.end(),
                                       [&](const TensorResult& tensor) { return tensor.name == weight; });
      if (!written) {
        write_weight(i, linear);
        block.reordered.push_back(weight);
      }
      if (!linear.tensors.bias) continue;
      std::vector<float> values = linear.bias;
      orders_.to_file(i, {}, values);
      write_tensor(run_.output, bias, run_.model.checkpoint().at(bias).dtype, values);
      block.reordered.push_back(bias);
    }
  }

  // Was the weight read?
  bool read_finished(BlockLinear& linear) {
    const std::string name = linear.tensors.name + ".weight";
    const auto finished = finished_.find(name);
    if (finished == finished_.end()) return false;
    Communicator& ranks = *run_.options.ranks;
    if (ranks.is_first()) run_.output.read(name, linear.weight.values());
    ranks.broadcast(0, std::as_writable_bytes(linear.weight.values()));
    if (const std::int64_t rank = finished->second; rank > 0) {  // by one process alone
      LowRank& part = linear.low_rank.emplace(
          LowRank{Matrix(linear.tensors.outputs, rank), Matrix(rank, linear.tensors.inputs)});
      run_.output.read(adapter_left_name(linear.tensors.name), part.left.values());
      run_.output.read(adapter_right_name(linear.tensors.name), part.right.values());
    }
    return true;
  }

  std::optional<ActivationStats>& stats_of(LinearInput input) {
    return stats_[static_cast<std::size_t>(input)];
  }

  ActivationStats& start_stats(LinearInput input, const StatNeeds& needs, bool residual) {
    std::int64_t inputs = 0;
    if (expert_) {
      inputs = expert_->linear(is_output(input) ? ExpertPart::kDown : ExpertPart::kUp).tensors.inputs;
    } else {
      inputs = observed_width(block_->config(), input, run_.model.config().hidden_size);
    }
    return stats_of(input).emplace(inputs, needs, residual ? run_.model.config().hidden_size : 0,
                                   run_.options.compute, run_.options.ranks->size() > 1);
  }

  void finish_stats(LinearInput input) {
    auto& stats = stats_of(input);
    if (!stats) return;
    if (run_.options.ranks->size() > 1) stats->combine(backend_, *run_.options.ranks);
    const std::string expert = expert_ ? fmt::format(", expert {}", expert_index_) : "";
    stats->finish(fmt::format("block {}{}, {}", block_.layer(), expert, name_of(input)));
  }

  std::vector<SharedRefinement::Result> refine_shared() {
    const Stopwatch watch(run_.seconds.refine);
    return shared_.refine([&](const PlanEntry& entry, const Refiner& refiner) -> const PreparedGram& {
      return prepared(entry, refiner);
    });
  }

  // Of the input in hand, what this linear reads.
  const LayerStats& stats_for(const PlanEntry& entry) {
    if (entry.expert >= 0 || !entry.observed) return input_stats_;
    auto& part = parts_[entry.first_input];
    if (!part) part = std::make_unique<StatsPart>(input_stats_, entry.first_input, entry.cols);
    return part->stats();
  }

  // Linears that share an input share what the refinement derives from its Gram matrix.
  const PreparedGram& prepared(const PlanEntry& entry, const Refiner& refiner) {
    const RefineExtras extras{.grid = entry.grid.has_value(), .low_rank = entry.low_rank > 0};
    for (const Prepared& prepared : prepared_) {
      if (prepared.refine == entry.refine && prepared.extras == extras &&
          prepared.first_input == entry.first_input) {
        return *prepared.gram;
      }
    }
    prepared_.push_back({entry.refine, extras, entry.first_input,
                         refiner.prepare(stats_for(entry), backend_, entry.tensor, extras)});
    return *prepared_.back().gram;
  }

  // The weights are what the file will hold; dense: what they were.
  void finish_linear(std::size_t linear, const PlanEntry& entry, const Matrix& dense) {
    BlockLinear& of = this->linear(linear);
    if (entry.expert < 0) block_.changed(entry.input);
    if (!quantized_[linear] || !run_.output.keeps_grids()) round_to(of.dtype, of.weight.values());
    check_finite(of.weight.view(), entry.tensor);
    if (of.low_rank) {
      round_to(of.dtype, of.low_rank->left.values());
      round_to(of.dtype, of.low_rank->right.values());
    }
    {
      const Stopwatch watch(run_.seconds.refine);
      const Matrix sum = of.low_rank ? sum_of(of.weight.view(), *of.low_rank, backend_) : Matrix();
      outcomes_[linear].error =
          output_error(dense.view(), of.low_rank ? sum.view() : of.weight.view(), stats_for(entry), backend_);
    }
    const auto values = std::as_const(of.weight).values();
    outcomes_[linear].zeros = std::count(values.begin(), values.end(), 0.0f);
  }

  const PruneRun& run_;
  const Backend& backend_;
  const Share share_;           // of the windows
  const TokenWindows windows_;  // this rank's
  CpuStreamOps ops_;
  std::unique_ptr<Selector> selector_;
  std::optional<RowEffects> row_effects_;  // where the plan has row budgets
  std::optional<WholeStream<CpuStreamOps>> one_;
  std::optional<TwoStreams<CpuStreamOps>> two_;
  CpuBlock block_;
  ExpertStream<CpuStreamOps> experts_;
  SharedRefinement shared_;
  ChannelOrders orders_;
  bool experts_pass_ = false;
  std::optional<LinearNumbers> numbers_;  // of the block
  std::int64_t expert_index_ = -1;
  std::optional<Expert> expert_;  // in hand
  // Tensors of the block in hand that an earlier run wrote, and the ranks of what stands beside them.
  std::map<std::string, std::int64_t> finished_;
  std::array<std::optional<ActivationStats>, kNumLinearInputs> stats_;
  LayerStats input_stats_;                                    // of the input in hand
  std::map<std::int64_t, std::unique_ptr<StatsPart>> parts_;  // of it, by LinearTensors::first_input
  struct Prepared {
    RefineSpec refine;
    RefineExtras extras;
    std::int64_t first_input = 0;
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
