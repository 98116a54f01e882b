#include "swiftprune/pipeline/drivers/prune.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <utility>

#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/masking/apply_mask.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/pipeline/choices/row_budgets.h"
#include "swiftprune/pipeline/streams/two_streams.h"
#include "swiftprune/refinement/layer_error.h"
#include "swiftprune/refinement/refiner.h"
#include "swiftprune/scoring/scorer.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

StatNeeds needs_of(const PlanEntry& entry) {
  if (!entry.prune) return {};
  const StatNeeds scores = entry.refine.facts().uses_mask ? entry.score.needs() : StatNeeds{};
  StatNeeds budgets;
  budgets.energy = entry.has_row_budgets();
  budgets.sample = entry.has_row_budgets() && entry.input == LinearInput::kMlp;
  return scores | budgets | entry.refine.needs();
}

// Relative change of the linear's outputs on its calibration inputs; nothing without calibration. Over a
// sample of the rows where the Gram matrix is known, else from the channels' energies, as if they were
// uncorrelated.
std::optional<double> output_error(ConstMatrixView dense, ConstMatrixView pruned, const LayerStats& stats,
                                   const Backend& backend) {
  if (stats.num_tokens == 0) return std::nullopt;
  constexpr std::int64_t kSampledRows = 256;
  const std::int64_t step = std::max<std::int64_t>(1, dense.rows / kSampledRows);
  const Matrix change = sampled_difference(dense, pruned, step);
  const Matrix whole = sampled_difference(dense, {}, step);
  const auto error = [&](const Matrix& w) {
    const std::vector<double> energies = row_energies(w.view(), stats, backend);
    return std::accumulate(energies.begin(), energies.end(), 0.0);
  };
  const double total = error(whole);
  return total > 0.0 ? std::max(0.0, error(change) / total) : 0.0;
}

// Rounds to the checkpoint's dtype and back, so that the next block sees what the file will hold.
void round_to(DType dtype, MatrixView weight) {
  if (dtype == DType::kF32) return;
  parallel_for(weight.rows, 16, [&](std::int64_t first, std::int64_t last) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(weight.cols * size_of(dtype)));
    for (std::int64_t r = first; r < last; ++r) {
      convert_from_f32(weight.row_span(r), dtype, bytes);
      convert_to_f32(bytes, dtype, weight.row_span(r));
    }
  });
}

void check_finite(ConstMatrixView weight, const std::string& tensor) {
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    for (std::int64_t c = 0; c < weight.cols; ++c) {
      if (!std::isfinite(weight.at(r, c))) {
        bad_input("tensor '{}': found {} at row {}, column {}, expected finite weights; nothing was written",
                  tensor, weight.at(r, c), r, c);
      }
    }
  }
}

class BlockPruner {
 public:
  BlockPruner(const Model& model, const Backend& backend, const Plan& plan, const TokenWindows& windows,
              const PruneOptions& options, PruneOutput& output)
      : model_(model),
        backend_(backend),
        plan_(plan),
        windows_(windows),
        options_(options),
        output_(output),
        selector_(make_selector(options.select, options.selector)) {
    for (const PlanEntry& entry : plan.entries) {
      entries_[entry.layer].push_back(&entry);
      if (!entry.has_row_budgets() || row_effects_) continue;
      options.readers.empty() ? row_effects_.emplace(model) : row_effects_.emplace(model, options.readers);
    }
  }

  PruneResult run() {
    run_blocks();
    finish_result();
    return std::move(result_);
  }

 private:
  void run_blocks() {
    const Stopwatch total(result_.seconds.total);
    const std::int64_t last = last_pruned_layer();
    const bool calibrate = needs_calibration(plan_);
    const bool aligned = calibrate && is_aligned();
    if (aligned) {
      const Stopwatch watch(result_.seconds.calibrate);
      streams_.emplace(model_, backend_, windows_);
    } else if (calibrate) {
      embed();
    }
    for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
      check_interrupt();
      if (layer < static_cast<std::int64_t>(options_.finished.size())) {
        pass_through(layer, calibrate && layer < last, aligned);
      } else if (layer <= last) {
        const std::size_t first = result_.tensors.size();
        aligned ? run_aligned_block(layer, layer < last) : run_block(layer, calibrate, layer < last);
        finish_block(layer, first);
      }
      if (options_.progress) options_.progress("prune", layer + 1, model_.config().num_layers());
    }
  }

  void finish_block(std::int64_t layer, std::size_t first_tensor) {
    output_.finish(
        {layer,
         weights_changed_,
         {result_.tensors.begin() + static_cast<std::ptrdiff_t>(first_tensor), result_.tensors.end()}});
    result_.weights_changed |= std::exchange(weights_changed_, false);
  }

  // A block that an earlier run finished: what comes out of it is what came out then.
  void pass_through(std::int64_t layer, bool calibrate, bool aligned) {
    const FinishedBlock& finished = options_.finished[static_cast<std::size_t>(layer)];
    result_.tensors.insert(result_.tensors.end(), finished.tensors.begin(), finished.tensors.end());
    result_.weights_changed |= finished.weights_changed;
    ++result_.resumed_blocks;
    if (!calibrate) return;
    const Stopwatch watch(result_.seconds.calibrate);
    DecoderBlock block = model_.load_block(layer);
    if (aligned || options_.propagation == Propagation::kPruned) {
      std::set<std::string> names;
      for (const TensorResult& tensor : finished.tensors) names.insert(tensor.name);
      for (BlockLinear& linear : block.linears()) {
        const std::string name = linear.tensors.name + ".weight";
        if (names.contains(name)) output_.read(name, linear.weight.values());
      }
    }
    block.pack(backend_, options_.compute);
    if (aligned) {
      DecoderBlock dense = model_.load_block(layer);
      dense.pack(backend_, options_.compute);
      streams_->start_block(dense, block);
      for (int input = 0; input < kNumLinearInputs; ++input)
        streams_->collect(static_cast<LinearInput>(input), nullptr);
      streams_->finish_block();
    } else {
      forward(block, nullptr, false);
    }
    model_.release_block(layer);
  }

  std::int64_t last_pruned_layer() const {
    std::int64_t last = -1;
    for (const PlanEntry& entry : plan_.entries) {
      if (entry.prune) last = std::max(last, entry.layer);
    }
    return last;
  }

  // Without the pruned blocks' effect on the next ones there is no error to make up for.
  bool is_aligned() const {
    if (options_.propagation == Propagation::kDense) return false;
    return std::any_of(plan_.entries.begin(), plan_.entries.end(),
                       [](const PlanEntry& entry) { return needs_of(entry).alignment; });
  }

  void embed() {
    const Stopwatch watch(result_.seconds.calibrate);
    ropes_ = model_.rope_tables(windows_.seqlen);
    hidden_ = model_.embed_windows(windows_, 0, windows_.num_windows());
  }

  void run_block(std::int64_t layer, bool calibrate, bool more_to_come) {
    std::optional<DecoderBlock> block;
    {
      const Stopwatch watch(result_.seconds.load);
      block.emplace(model_.load_block(layer));
    }
    const std::vector<const PlanEntry*>& entries = entries_.at(layer);
    collect(*block, entries, calibrate, more_to_come, layer);
    bool changed = false;
    for (int input = 0; input < kNumLinearInputs; ++input) {
      changed |= prune_linears(*block, entries, static_cast<LinearInput>(input));
    }
    if (calibrate && more_to_come && options_.propagation == Propagation::kPruned) {
      const Stopwatch watch(result_.seconds.calibrate);
      if (changed) block->pack(backend_, options_.compute);
      forward(*block, nullptr, false);
    }
    model_.release_block(layer);
  }

  // Input by input: the linears that read it are pruned before the windows go on.
  void run_aligned_block(std::int64_t layer, bool more_to_come) {
    std::optional<DecoderBlock> dense;
    std::optional<DecoderBlock> block;
    {
      const Stopwatch watch(result_.seconds.load);
      dense.emplace(model_.load_block(layer));
      block.emplace(model_.load_block(layer));
    }
    const std::vector<const PlanEntry*>& entries = entries_.at(layer);
    {
      const Stopwatch watch(result_.seconds.calibrate);
      dense->pack(backend_, options_.compute);
      streams_->start_block(*dense, *block);
      make_stats(entries, &*block);
    }
    for (int i = 0; i < kNumLinearInputs; ++i) {
      const auto input = static_cast<LinearInput>(i);
      auto& stats = stats_[static_cast<std::size_t>(i)];
      {
        const Stopwatch watch(result_.seconds.calibrate);
        streams_->collect(input, stats ? &*stats : nullptr);
        finish_stats(layer, input);
      }
      prune_linears(*block, entries, input);
      stats.reset();
      const Stopwatch watch(result_.seconds.calibrate);
      block->pack(backend_, options_.compute, input);
    }
    if (more_to_come) {
      const Stopwatch watch(result_.seconds.calibrate);
      streams_->finish_block();
    }
    model_.release_block(layer);
  }

  // One pass over the windows with the block still dense; with dense propagation it is the only one.
  void collect(DecoderBlock& block, const std::vector<const PlanEntry*>& entries, bool calibrate,
               bool more_to_come, std::int64_t layer) {
    stats_ = {};
    if (!calibrate) return;
    const Stopwatch watch(result_.seconds.calibrate);
    block.pack(backend_, options_.compute);
    const bool observed = make_stats(entries, nullptr);
    const bool dense = options_.propagation == Propagation::kDense;
    if (!observed && !(dense && more_to_come)) return;
    const InputObserver observer = [&](LinearInput input, ConstMatrixView x) {
      auto& stats = stats_[static_cast<std::size_t>(input)];
      if (!stats) return;
      for (std::int64_t first = 0; first < x.rows; first += windows_.seqlen) {
        stats->add_window(backend_, x.row_block(first, windows_.seqlen));
      }
    };
    forward(block, &observer, !dense);
    for (int input = 0; input < kNumLinearInputs; ++input) {
      finish_stats(layer, static_cast<LinearInput>(input));
    }
  }

  // Empty statistics of what the entries need; false when they need none. aligned: the block, when the dense
  // stream runs beside the pruned one. Where the output is normed before it joins the residual, making up for
  // the residual's error would need the norm's inverse: no residual moments there.
  bool make_stats(const std::vector<const PlanEntry*>& entries, const DecoderBlock* aligned) {
    stats_ = {};
    std::array<StatNeeds, kNumLinearInputs> needs{};
    for (const PlanEntry* entry : entries) {
      const auto input = static_cast<std::size_t>(entry->input);
      needs[input] = needs[input] | needs_of(*entry);
      if (aligned == nullptr) needs[input].alignment = false;
    }
    bool observed = false;
    for (const PlanEntry* entry : entries) {
      const auto input = static_cast<std::size_t>(entry->input);
      if (!needs[input].any()) continue;
      const bool residual =
          aligned != nullptr && is_output(entry->input) && !aligned->norms_output(entry->input);
      stats_[input].emplace(entry->cols, needs[input], residual ? model_.config().hidden_size : 0,
                            options_.compute);
      observed = true;
    }
    return observed;
  }

  void finish_stats(std::int64_t layer, LinearInput input) {
    auto& stats = stats_[static_cast<std::size_t>(input)];
    if (stats) stats->finish(fmt::format("block {}, {}", layer, name_of(input)));
  }

  // observe_only: the hidden states stay as they are.
  void forward(const DecoderBlock& block, const InputObserver* observer, bool observe_only) {
    const std::int64_t seqlen = windows_.seqlen;
    for_window_groups(windows_.num_windows(), seqlen, [&](std::int64_t first, std::int64_t count) {
      check_interrupt();
      BlockForwardOptions options;
      options.sequence_length = seqlen;
      options.observer = observer;
      options.observe_only = observe_only;
      const MatrixView rows = hidden_.view().row_block(first * seqlen, count * seqlen);
      if (!observe_only) {
        block.forward(backend_, ropes_, rows, options);
        return;
      }
      Matrix copy = copy_of(rows);
      block.forward(backend_, ropes_, copy.view(), options);
    });
  }

  // Those that read `input`; false when the plan prunes none of them.
  bool prune_linears(DecoderBlock& block, const std::vector<const PlanEntry*>& entries, LinearInput input) {
    bool changed = false;
    prepared_.clear();
    const auto& input_stats = stats_[static_cast<std::size_t>(input)];
    const LayerStats stats = input_stats ? input_stats->view() : LayerStats{};
    const std::vector<std::vector<std::int64_t>> counts = budgets(block, entries, input, stats);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (!entries[i]->prune || entries[i]->input != input) continue;
      PruneTarget target = entries[i]->target(plan_.rounding);
      target.row_counts = counts[i];
      prune_linear(block.linears()[i], *entries[i], stats, target);
      changed = true;
    }
    prepared_.clear();
    return changed;
  }

  // The rows' numbers of weights to prune, for the entries that have row budgets; from the weights of all
  // linears of this input before the first is pruned.
  std::vector<std::vector<std::int64_t>> budgets(const DecoderBlock& block,
                                                 const std::vector<const PlanEntry*>& entries,
                                                 LinearInput input, const LayerStats& stats) {
    std::vector<std::vector<std::int64_t>> counts(entries.size());
    const bool wanted = std::any_of(entries.begin(), entries.end(), [&](const PlanEntry* entry) {
      return entry->input == input && entry->has_row_budgets();
    });
    if (!wanted) return counts;
    const Stopwatch watch(result_.seconds.score);
    const auto effects = row_effects_->of(backend_, block, entries.front()->layer, input, stats);
    std::size_t next = 0;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (entries[i]->input != input) continue;
      const std::vector<float>& effect = effects[next++];
      if (!entries[i]->has_row_budgets()) continue;
      counts[i] = row_budgets(block.linears()[i].weight.view(), stats.energy, effect, entries[i]->sparsity);
    }
    return counts;
  }

  void prune_linear(BlockLinear& linear, const PlanEntry& entry, const LayerStats& stats,
                    const PruneTarget& target) {
    check_interrupt();
    check_finite(linear.weight.view(), entry.tensor);
    const auto refiner = make_refiner(entry.refine);
    TensorResult tensor{
        entry.tensor, format(entry.pattern), entry.rows, entry.cols, entry.asked_sparsity(), 0.0, {}, {}, {}};

    Mask mask;
    if (refiner->uses_mask()) {
      Selection selection = select(linear, entry, stats, target);
      tensor.lambda = selection.report.lambda;
      mask = std::move(selection.mask);
    }
    Matrix dense = linear.weight.clone();
    if (entry.refine.is_none()) {
      apply_mask(mask, linear.weight.view());
    } else {
      const Stopwatch watch(result_.seconds.refine);
      RefineTask task;
      task.weight = dense.view();
      task.mask = refiner->uses_mask() ? &mask : nullptr;
      task.target = target;
      task.measure_error = false;  // measured below, on the rounded weights
      Refinement refined = refiner->refine(task, prepared(entry, *refiner, stats), backend_);
      if (refined.report.damping_raised > 0) tensor.damping = refined.report.damping;
      linear.weight = std::move(refined.weight);
      weights_changed_ |= !refiner->keeps_weights();
    }
    round_to(linear.dtype, linear.weight.view());
    check_finite(linear.weight.view(), entry.tensor);
    {
      const Stopwatch watch(result_.seconds.refine);
      tensor.error = output_error(dense.view(), linear.weight.view(), stats, backend_);
    }
    std::int64_t zeros = 0;
    for (const float value : linear.weight.values()) zeros += value == 0.0f ? 1 : 0;
    tensor.sparsity = static_cast<double>(zeros) / static_cast<double>(linear.weight.numel());
    result_.tensors.push_back(std::move(tensor));
    const Stopwatch watch(result_.seconds.write);
    output_.write(entry.tensor, linear.weight.values());
  }

  Selection select(const BlockLinear& linear, const PlanEntry& entry, const LayerStats& stats,
                   const PruneTarget& target) {
    Scores scores;
    {
      const Stopwatch watch(result_.seconds.score);
      scores =
          make_scorer(entry.score)->score(weight_view(linear.weight.view()), stats, backend_, entry.tensor);
    }
    const Stopwatch watch(result_.seconds.select);
    return selector_->select(scores.view(weight_view(linear.weight.view())), target);
  }

  // Linears that share an input share what the refinement derives from its Gram matrix.
  const PreparedGram& prepared(const PlanEntry& entry, const Refiner& refiner, const LayerStats& stats) {
    for (const auto& [refine, gram] : prepared_) {
      if (refine == entry.refine) return *gram;
    }
    return *prepared_.emplace_back(entry.refine, refiner.prepare(stats, backend_, entry.tensor)).second;
  }

  void finish_result() {
    double zeros = 0.0;
    double total = 0.0;
    for (const TensorResult& tensor : result_.tensors) {
      zeros += tensor.sparsity * static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
    }
    for (const PlanEntry& entry : plan_.entries) total += entry.num_weights();
    result_.sparsity = total > 0.0 ? zeros / total : 0.0;
  }

  const Model& model_;
  const Backend& backend_;
  const Plan& plan_;
  const TokenWindows& windows_;
  const PruneOptions& options_;
  PruneOutput& output_;
  std::unique_ptr<Selector> selector_;
  std::map<std::int64_t, std::vector<const PlanEntry*>> entries_;
  std::vector<RopeTable> ropes_;
  Matrix hidden_;  // [windows·seqlen, hidden]
  std::array<std::optional<ActivationStats>, kNumLinearInputs> stats_;
  std::optional<RowEffects> row_effects_;  // where the plan has row budgets
  std::optional<TwoStreams> streams_;      // of an aligned run; hidden_ and ropes_ are empty then
  std::vector<std::pair<RefineSpec, std::unique_ptr<PreparedGram>>> prepared_;  // for the current input
  bool weights_changed_ = false;                                                // in this block
  PruneResult result_;
};

}  // namespace

void PruneOutput::write_part(const std::string&, std::int64_t, std::span<const std::byte>) {
  expect(false, "PruneOutput: an output of a run on a GPU takes parts");
}

StatNeeds stat_needs(const PlanEntry& entry) { return needs_of(entry); }

void PruneOutput::read(const std::string&, std::span<float>) {
  expect(false, "PruneOutput: read() where blocks are finished already");
}

StatNeeds calibration_needs(const Plan& plan) {
  StatNeeds needs;
  for (const PlanEntry& entry : plan.entries) needs = needs | needs_of(entry);
  return needs;
}

bool needs_calibration(const Plan& plan) { return calibration_needs(plan).any(); }

PruneResult prune(const Model& model, const Backend& backend, const Plan& plan, const TokenWindows& windows,
                  const PruneOptions& options, PruneOutput& output) {
  if (has_packed_tensors(model.checkpoint())) {
    bad_input("{}: a packed model cannot be pruned; make it dense first: swiftprune unpack",
              model.checkpoint().folder().string());
  }
  if (needs_calibration(plan))
    expect(windows.num_windows() > 0, "prune: calibration windows for a method that needs them");
  return BlockPruner(model, backend, plan, windows, options, output).run();
}

}  // namespace swiftprune
