#include "swiftprune/pipeline/drivers/prune.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/core/timeline.h"
#include "swiftprune/pipeline/capabilities.h"
#include "swiftprune/pipeline/drivers/channel_orders.h"
#include "swiftprune/pipeline/drivers/prune_shop.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

using Entries = std::vector<const PlanEntry*>;  // of one block, in the order of its linears

std::int64_t last_pruned_layer(const Plan& plan) {
  std::int64_t last = -1;
  for (const PlanEntry& entry : plan.entries) {
    if (entry.prune) last = std::max(last, entry.layer);
  }
  return last;
}

PruneRun make_run(const Model& model, const Plan& plan, const TokenWindows& windows,
                  const PruneOptions& options, PruneOutput& output, StageSeconds& seconds) {
  PruneRun run{model, plan, windows, options, output, seconds};
  const StatNeeds needs = calibration_needs(plan);
  run.calibrated = needs.any();
  // Without the pruned blocks' effect on the next ones there is no error to make up for.
  run.aligned = run.calibrated && needs.alignment && options.propagation == Propagation::kPruned;
  const auto has_row_budgets = [](const PlanEntry& entry) { return entry.has_row_budgets(); };
  run.row_budgets = std::any_of(plan.entries.begin(), plan.entries.end(), has_row_budgets);
  if (options.levels != nullptr) {
    for (const auto& levels : options.levels->levels)
      run.row_budgets |= std::any_of(levels.begin(), levels.end(), has_row_budgets);
  }
  run.last_layer = last_pruned_layer(plan);
  return run;
}

class Pruner {
 public:
  Pruner(const PruneShopMaker& make_shop, const Model& model, const Plan& plan, const TokenWindows& windows,
         const PruneOptions& options, PruneOutput& output)
      : options_(options),
        plan_(plan),
        run_(make_run(model, plan, windows, options, output, result_.seconds)) {
    for (const PlanEntry& entry : plan.entries) entries_[entry.layer].push_back(&entry);
    const Stopwatch total(result_.seconds.total);
    if (run_.last_layer >= 0) shop_ = make_shop(run_);
  }

  PruneResult run() {
    if (shop_) {
      const Stopwatch total(result_.seconds.total);
      run_blocks();
    }
    double zeros = 0.0;
    double all = 0.0;
    for (const TensorResult& tensor : result_.tensors)
      zeros += tensor.sparsity * static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
    for (const PlanEntry& entry : plan_.entries) all += entry.num_weights();
    result_.sparsity = all > 0.0 ? zeros / all : 0.0;
    return std::move(result_);
  }

 private:
  void run_blocks() {
    for (std::int64_t layer = 0; layer <= run_.last_layer; ++layer) {
      check_interrupt();
      const bool more_to_come = layer < run_.last_layer;
      layer < std::ssize(options_.finished) ? pass_through(layer, run_.calibrated && more_to_come)
                                            : prune_block(layer, more_to_come);
      if (options_.progress) options_.progress("prune", layer + 1, run_.last_layer + 1);
    }
    shop_->finish();
  }

  // A block that an earlier run finished: what comes out of it is what came out then.
  void pass_through(std::int64_t layer, bool windows_pass) {
    const FinishedBlock& finished = options_.finished[static_cast<std::size_t>(layer)];
    result_.tensors.insert(result_.tensors.end(), finished.tensors.begin(), finished.tensors.end());
    result_.weights_changed |= finished.weights_changed;
    add_tokens(finished);
    ++result_.resumed_blocks;
    if (!windows_pass) return;
    shop_->load(layer);
    const Stopwatch watch(result_.seconds.calibrate);
    const bool pruned = run_.aligned || options_.propagation == Propagation::kPruned;
    if (pruned) shop_->load_finished(finished);
    if (run_.aligned) {
      shop_->start_block();
      for (int input = 0; input < kNumLinearInputs; ++input)
        shop_->collect(static_cast<LinearInput>(input), nullptr, false);
    }
    const std::int64_t experts = num_experts(layer);
    if (experts == 0 || !pruned || !takes_experts(entries_.at(layer), true)) return shop_->pass();
    shop_->start_experts(true);
    for (std::int64_t e = 0; e < experts; ++e) {
      shop_->start_expert(e, {}, false);
      shop_->end_expert();
    }
    shop_->end_experts();
  }

  std::int64_t num_experts(std::int64_t layer) const {
    const auto& experts = run_.model.config().blocks[static_cast<std::size_t>(layer)].experts;
    return experts ? experts->count : 0;
  }

  // Of a block with experts: do they pass one by one? Where none of them is pruned they do so only beside the dense
  // model, whose streams end at them.
  bool takes_experts(const Entries& entries, bool windows_pass) const {
    return (run_.aligned && windows_pass) ||
           std::any_of(entries.begin(), entries.end(),
                       [](const PlanEntry* entry) { return entry->expert >= 0 && entry->prune; });
  }

  void add_tokens(const FinishedBlock& block) {
    if (!block.expert_tokens.empty()) result_.expert_tokens.push_back({block.layer, block.expert_tokens});
  }

  void prune_block(std::int64_t layer, bool more_to_come) {
    const Entries& entries = entries_.at(layer);
    shop_->load(layer);
    const bool passes = run_.calibrated && more_to_come;
    const bool by_expert = num_experts(layer) > 0 && takes_experts(entries, passes);
    const bool experts_first = by_expert && run_.calibrated && options_.propagation == Propagation::kDense;
    const NeedsOfInputs needs = needs_of(entries, -1);
    if (run_.aligned) {
      const Stopwatch watch(result_.seconds.calibrate);
      shop_->start_block();
    } else if (run_.calibrated) {
      look(needs, more_to_come, by_expert);
    }
    std::vector<std::int64_t> tokens;
    if (experts_first) tokens = shop_->start_experts(passes);
    bool weights_changed = false;
    for (int i = 0; i < kNumLinearInputs; ++i) {
      const auto input = static_cast<LinearInput>(i);
      if (run_.aligned) collect(layer, input, needs[static_cast<std::size_t>(i)]);
      weights_changed |= prune_linears(entries, input, -1);
    }
    if (by_expert) {
      if (!experts_first) tokens = shop_->start_experts(passes);
      weights_changed |= prune_experts(layer, entries, tokens);
    }
    shop_->end_linears();
    if (passes && !by_expert && options_.propagation == Propagation::kPruned) {
      const Stopwatch watch(result_.seconds.calibrate);
      const TimelineStage stage("forward", layer);
      shop_->pass();
    }
    finish_block(layer, entries, weights_changed, std::move(tokens));
  }

  bool prune_experts(std::int64_t layer, const Entries& entries, std::span<const std::int64_t> tokens) {
    bool weights_changed = false;
    for (std::int64_t e = 0; e < num_experts(layer); ++e) {
      const NeedsOfInputs needs = needs_of(entries, e);
      const bool pooled = !tokens.empty() && tokens[static_cast<std::size_t>(e)] < options_.min_expert_tokens;
      shop_->start_expert(e, run_.aligned ? NeedsOfInputs{} : needs, pooled);
      for (const LinearInput input : {LinearInput::kMlp, LinearInput::kMlpOutput}) {
        const StatNeeds& of_input = needs[static_cast<std::size_t>(input)];
        if (run_.aligned && of_input.any()) shop_->collect_expert(input, of_input, pooled);
        weights_changed |= prune_linears(entries, input, e);
      }
      for (std::size_t i = 0; i < entries.size(); ++i) {
        if (entries[i]->expert == e && entries[i]->prune) shop_->write(i);
      }
      shop_->end_expert();
    }
    shop_->end_experts();
    return weights_changed;
  }

  // By input, of the linears of this expert (-1: that every token passes); alignment only where the dense stream runs.
  NeedsOfInputs needs_of(const Entries& entries, std::int64_t expert) const {
    NeedsOfInputs needs{};
    for (const PlanEntry* entry : entries) {
      if (entry->expert != expert) continue;
      StatNeeds& of_input = needs[static_cast<std::size_t>(entry->input)];
      of_input = of_input | stat_needs(*entry);
      for (const PlanEntry& level : levels_of(*entry)) of_input = of_input | stat_needs(level);
      of_input.alignment &= run_.aligned;
    }
    return needs;
  }

  // One pass over the windows with the block still dense; with dense propagation it is the only one.
  // by_expert: the windows pass the block expert by expert later.
  void look(const NeedsOfInputs& needs, bool more_to_come, bool by_expert) {
    const bool observed =
        std::any_of(needs.begin(), needs.end(), [](const StatNeeds& of_input) { return of_input.any(); });
    const bool dense = options_.propagation == Propagation::kDense && !by_expert;
    if (!observed && !(dense && more_to_come)) return;
    const Stopwatch watch(result_.seconds.calibrate);
    const TimelineStage stage("forward");
    shop_->look(needs, dense);
  }

  // Where the output is normed before it joins the residual, making up for the residual's error would need
  // the norm's inverse, and where a gate weighs it, the gate's; two projections that join together would make up for
  // it twice: no residual moments there.
  void collect(std::int64_t layer, LinearInput input, const StatNeeds& needs) {
    const Stopwatch watch(result_.seconds.calibrate);
    const TimelineStage stage("forward", layer);
    const BlockConfig& block = run_.model.config().blocks[static_cast<std::size_t>(layer)];
    const bool gated =
        input == LinearInput::kMlpOutput && block.experts && !block.experts->shared_gate.empty();
    const bool both = input == LinearInput::kAttentionOutput && block.beside;
    const bool residual = is_output(input) && !gated && !both && !shop_->norms_output(input);
    shop_->collect(input, needs.any() ? &needs : nullptr, residual);
  }

  // Those of the expert (-1: that every token passes) that read `input`; do their kept weights change?
  bool prune_linears(const Entries& entries, LinearInput input, std::int64_t expert) {
    const TimelineStage stage("refine");
    shop_->start_input(input);
    const std::vector<RowCounts> counts = row_counts(entries, input);
    bool weights_changed = false;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const PlanEntry& entry = *entries[i];
      if (!entry.prune || entry.input != input || entry.expert != expert) continue;
      check_interrupt();
      solve_levels(i, entry, counts[i].levels);
      PruneTarget target = entry.target(plan_.rounding);
      target.row_counts = counts[i].own;
      const RefineFacts refinement = entry.refine.facts();
      const bool refines = !entry.refine.is_none();
      if (refinement.uses_mask) shop_->select(i, entry, target, refines);
      if (refines) shop_->refine(i, entry, target);
      weights_changed |= !refinement.keeps_weights;
    }
    shop_->end_input(input);
    return weights_changed;
  }

  // Of a plan's entry, what it is solved at beside.
  std::span<const PlanEntry> levels_of(const PlanEntry& entry) const {
    if (options_.levels == nullptr) return {};
    return options_.levels->levels.at(static_cast<std::size_t>(&entry - plan_.entries.data()));
  }

  // counts: of each level's rows (row_counts()).
  void solve_levels(std::size_t linear, const PlanEntry& entry,
                    std::span<const std::vector<std::int64_t>> counts) {
    const std::span<const PlanEntry> levels = levels_of(entry);
    const auto number = static_cast<std::size_t>(&entry - plan_.entries.data());
    for (std::size_t l = 0; l < levels.size(); ++l) {
      if (options_.levels->is_own && !options_.levels->is_own(number, l)) continue;
      check_interrupt();
      PruneTarget target = levels[l].target(plan_.rounding);
      target.row_counts = counts[l];
      const PruneShop::Aside solved = shop_->solve_aside(linear, levels[l], target);
      options_.levels->take(number, l, result_of(levels[l], solved.outcome), solved.weight.view());
    }
  }

  static TensorResult result_of(const PlanEntry& entry, const LinearOutcome& outcome) {
    return {.name = entry.tensor,
            .pattern = format(entry.pattern),
            .rows = entry.rows,
            .cols = entry.cols,
            .asked_sparsity = entry.asked_sparsity(),
            .sparsity = static_cast<double>(outcome.zeros) / entry.num_weights(),
            .error = outcome.error,
            .damping = outcome.damping,
            .lambda = outcome.lambda,
            .order = outcome.order,
            .low_rank = entry.low_rank};
  }

  // The rows' numbers of weights to prune, for the entries that have row budgets, and the same of their levels; from
  // the weights of all linears of this input before the first is pruned.
  struct RowCounts {
    std::vector<std::int64_t> own;
    std::vector<std::vector<std::int64_t>> levels;
  };
  std::vector<RowCounts> row_counts(const Entries& entries, LinearInput input) {
    std::vector<RowCounts> counts(entries.size());
    for (std::size_t i = 0; i < entries.size(); ++i) counts[i].levels.resize(levels_of(*entries[i]).size());
    const auto has_row_budgets = [](const PlanEntry& entry) { return entry.has_row_budgets(); };
    const bool wanted = std::any_of(entries.begin(), entries.end(), [&](const PlanEntry* entry) {
      const std::span<const PlanEntry> levels = levels_of(*entry);
      return entry->input == input &&
             (has_row_budgets(*entry) || std::any_of(levels.begin(), levels.end(), has_row_budgets));
    });
    if (!wanted) return counts;
    const Stopwatch watch(result_.seconds.score);
    const std::vector<std::vector<float>> effects = shop_->row_effects(input);
    std::size_t next = 0;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const PlanEntry& entry = *entries[i];
      if (entry.input != input) continue;
      const std::vector<float>& effect = effects[next++];
      const auto budgets = [&](const PlanEntry& of) {
        if (!of.has_row_budgets()) return std::vector<std::int64_t>();
        const PruneTarget target = row_threshold_target(of.sparsity);
        return row_budgets(shop_->threshold_counts(i, effect, target), of.cols,
                           total_prune_count(target, of.rows, of.cols));
      };
      counts[i].own = budgets(entry);
      const std::span<const PlanEntry> levels = levels_of(entry);
      for (std::size_t l = 0; l < levels.size(); ++l) counts[i].levels[l] = budgets(levels[l]);
    }
    return counts;
  }

  // What the block's pruning told, and its tensors on their way.
  void finish_block(std::int64_t layer, const Entries& entries, bool weights_changed,
                    std::vector<std::int64_t> expert_tokens) {
    const std::vector<LinearOutcome> outcomes = shop_->outcomes();
    FinishedBlock finished{layer, weights_changed, {}, std::move(expert_tokens)};
    add_tokens(finished);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const PlanEntry& entry = *entries[i];
      if (!entry.prune) continue;
      finished.tensors.push_back(result_of(entry, outcomes[i]));
      if (entry.expert < 0) shop_->write(i);  // the experts' were written one by one
    }
    result_.tensors.insert(result_.tensors.end(), finished.tensors.begin(), finished.tensors.end());
    result_.weights_changed |= weights_changed;
    shop_->end_block(std::move(finished));
  }

  const PruneOptions& options_;
  const Plan& plan_;
  PruneResult result_;
  PruneRun run_;  // refers to result_
  std::map<std::int64_t, Entries> entries_;
  std::unique_ptr<PruneShop> shop_;  // null when nothing is pruned
};

// What is not defined for a model with experts, or has no place in its files.
void check_expert_plan(const Model& model, const Plan& plan, const PruneOutput& output) {
  if (!model.config().has_experts()) return;
  bool of_experts = false;
  for (const PlanEntry& entry : plan.entries) {
    of_experts |= entry.prune && entry.expert >= 0;
    if (!entry.has_row_budgets()) continue;
    bad_usage(
        "{}: row_budgets: found true in a model with experts, expected false: what a row's outputs do to the "
        "model is not measured there",
        entry.tensor);
  }
  if (!of_experts || output.keeps_grids()) return;
  for (const BlockConfig& block : model.config().blocks) {
    if (!block.experts) continue;
    const ExpertTensors tensors(model.checkpoint(), *block.experts, model.config().hidden_size);
    if (tensors.form() != ExpertForm::kMxfp4) continue;
    bad_input(
        "{}: tensor {}: found experts in MXFP4, which has no place for other values; expand them first "
        "(swiftprune unpack), or leave them as they are (--skip '*.experts.*')",
        model.checkpoint().folder().string(), tensors.weight_names().front());
  }
}

}  // namespace

void check_finite(ConstMatrixView weight, const std::string& tensor) {
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    for (std::int64_t c = 0; c < weight.cols; ++c) {
      if (std::isfinite(weight.at(r, c))) continue;
      bad_input("tensor '{}': found {} at row {}, column {}, expected finite weights; nothing was written",
                tensor, weight.at(r, c), r, c);
    }
  }
}

void PruneOutput::read(const std::string&, std::span<float>) {
  expect(false, "PruneOutput: read() where blocks are finished already");
}

void PruneOutput::write_quantized(const std::string&, const QuantizedWeight&) {
  expect(false, "PruneOutput: write_quantized() where grids are kept");
}

std::vector<std::int64_t> PruneShop::start_experts(bool) {
  expect(false, "start_experts: a device that runs experts");
  return {};
}
void PruneShop::start_expert(std::int64_t, const NeedsOfInputs&, bool) {
  expect(false, "start_expert: a device that runs experts");
}
void PruneShop::collect_expert(LinearInput, const StatNeeds&, bool) {
  expect(false, "collect_expert: a device that runs experts");
}
void PruneShop::end_expert() { expect(false, "end_expert: a device that runs experts"); }
void PruneShop::end_experts() { expect(false, "end_experts: a device that runs experts"); }

StatNeeds calibration_needs(const Plan& plan) {
  StatNeeds needs;
  for (const PlanEntry& entry : plan.entries) needs = needs | stat_needs(entry);
  return needs;
}

bool needs_calibration(const Plan& plan) { return calibration_needs(plan).any(); }

void check_not_packed(const Model& model) {
  if (!has_packed_tensors(model.checkpoint())) return;
  bad_input("{}: a packed model cannot be pruned; make it dense first: swiftprune unpack",
            model.checkpoint().folder().string());
}

PruneResult prune(const PruneShopMaker& make_shop, const Model& model, const Plan& plan,
                  const TokenWindows& windows, const PruneOptions& options, PruneOutput& output) {
  check_not_packed(model);
  check_expert_plan(model, plan, output);
  check_permute(plan, model.config());
  expect(plan.low_rank() == 0 || options.levels == nullptr, "prune: levels without low-rank parts");
  expect(plan.permute == Permute::kNone || options.levels == nullptr,
         "prune: levels in the model's own order");
  if (options.levels != nullptr) {
    expect(options.levels->levels.size() == plan.entries.size(), "prune: levels of each entry");
    check_without_experts(model.config(), "solving several levels of each linear",
                          "prune it at one sparsity");
  }
  if (needs_calibration(plan))
    expect(windows.num_windows() > 0, "prune: calibration windows for a method that needs them");
  return Pruner(make_shop, model, plan, windows, options, output).run();
}

PruneResult prune(const Model& model, const Backend& backend, const Plan& plan, const TokenWindows& windows,
                  const PruneOptions& options, PruneOutput& output) {
  return prune(cpu_prune_shop(backend), model, plan, windows, options, output);
}

}  // namespace swiftprune
