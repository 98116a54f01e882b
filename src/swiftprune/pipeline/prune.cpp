#include "swiftprune/pipeline/prune.h"

#include <array>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>

#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/masking/apply_mask.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/refinement/refiner.h"
#include "swiftprune/scoring/scorer.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds), start_(std::chrono::steady_clock::now()) {}
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point start_;
};

StatNeeds refiner_needs(const Refiner& refiner) {
  StatNeeds needs;
  needs.energy = needs.gram = refiner.uses_gram();
  return needs;
}

StatNeeds needs_of(const PlanEntry& entry) {
  if (!entry.prune) return {};
  const auto refiner = make_refiner(entry.refine);
  const StatNeeds scores = refiner->uses_mask() ? make_scorer(entry.score)->needs() : StatNeeds{};
  return scores | refiner_needs(*refiner);
}

bool any(const StatNeeds& needs) { return needs.energy || needs.ewma_energy || needs.sum || needs.gram; }

// Relative change of the linear's outputs on its calibration inputs.
std::optional<double> output_error(ConstMatrixView dense, ConstMatrixView pruned, const LayerStats& stats,
                                   const Backend& backend) {
  if (stats.num_tokens == 0) return std::nullopt;
  constexpr std::int64_t kRows = 64;
  const std::int64_t chunks = (dense.rows + kRows - 1) / kRows;
  std::vector<double> lost(static_cast<std::size_t>(chunks), 0.0);
  std::vector<double> kept(static_cast<std::size_t>(chunks), 0.0);
  if (stats.gram != nullptr) {
    Matrix difference(dense.rows, dense.cols);
    for (std::int64_t r = 0; r < dense.rows; ++r) {
      for (std::int64_t c = 0; c < dense.cols; ++c) difference.at(r, c) = dense.at(r, c) - pruned.at(r, c);
    }
    Matrix product(dense.rows, dense.cols);
    const auto quadratic = [&](ConstMatrixView w, std::vector<double>& sums) {
      backend.matmul(w, stats.gram->view(), 1.0f, 0.0f, product.view());
      parallel_for(w.rows, kRows, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t r = first; r < last; ++r) {
          for (std::int64_t c = 0; c < w.cols; ++c) {
            sums[static_cast<std::size_t>(first / kRows)] += double{product.at(r, c)} * double{w.at(r, c)};
          }
        }
      });
    };
    quadratic(difference.view(), lost);
    quadratic(dense, kept);
  } else {
    parallel_for(dense.rows, kRows, [&](std::int64_t first, std::int64_t last) {
      const auto s = static_cast<std::size_t>(first / kRows);
      for (std::int64_t r = first; r < last; ++r) {
        for (std::int64_t c = 0; c < dense.cols; ++c) {
          const double energy = stats.energy[static_cast<std::size_t>(c)];
          const double d = double{dense.at(r, c)} - double{pruned.at(r, c)};
          lost[s] += d * d * energy;
          kept[s] += double{dense.at(r, c)} * double{dense.at(r, c)} * energy;
        }
      }
    });
  }
  double total_lost = 0.0;
  double total_kept = 0.0;
  for (std::size_t i = 0; i < lost.size(); ++i) {
    total_lost += lost[i];
    total_kept += kept[i];
  }
  return total_kept > 0.0 ? std::max(0.0, total_lost / total_kept) : 0.0;
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
    for (const PlanEntry& entry : plan.entries) entries_[entry.layer].push_back(&entry);
  }

  PruneResult run() {
    const Stopwatch total(result_.seconds.total);
    const std::int64_t last = last_pruned_layer();
    const bool calibrate = needs_calibration(plan_);
    if (calibrate) embed();
    for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
      check_interrupt();
      if (layer <= last) run_block(layer, calibrate, layer < last);
      if (options_.progress) options_.progress("prune", layer + 1, model_.config().num_layers());
    }
    finish_result();
    return std::move(result_);
  }

 private:
  std::int64_t last_pruned_layer() const {
    std::int64_t last = -1;
    for (const PlanEntry& entry : plan_.entries) {
      if (entry.prune) last = std::max(last, entry.layer);
    }
    return last;
  }

  void embed() {
    const Stopwatch watch(result_.seconds.calibrate);
    ropes_ = model_.rope_tables(windows_.seqlen);
    hidden_ = Matrix(windows_.num_windows() * windows_.seqlen, model_.config().hidden_size);
    for (std::int64_t w = 0; w < windows_.num_windows(); ++w) {
      model_.embed(windows_.window(w), windows_.seqlen, 0,
                   hidden_.view().row_block(w * windows_.seqlen, windows_.seqlen));
    }
  }

  void run_block(std::int64_t layer, bool calibrate, bool more_to_come) {
    std::optional<DecoderBlock> block;
    {
      const Stopwatch watch(result_.seconds.load);
      block.emplace(model_.load_block(layer));
    }
    const std::vector<const PlanEntry*>& entries = entries_.at(layer);
    collect(*block, entries, calibrate, more_to_come, layer);
    prepared_.clear();
    bool changed = false;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (!entries[i]->prune) continue;
      prune_linear(block->linears()[i], *entries[i]);
      changed = true;
    }
    prepared_.clear();
    if (calibrate && more_to_come && options_.propagation == Propagation::kPruned) {
      const Stopwatch watch(result_.seconds.calibrate);
      if (changed) block->pack(backend_, options_.compute);
      forward(*block, nullptr, false);
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
    std::array<StatNeeds, kNumLinearInputs> needs{};
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const auto input = static_cast<std::size_t>(entries[i]->input);
      needs[input] = needs[input] | needs_of(*entries[i]);
    }
    bool observed = false;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const auto input = static_cast<std::size_t>(entries[i]->input);
      if (!any(needs[input])) continue;
      stats_[input].emplace(entries[i]->cols, needs[input]);
      observed = true;
    }
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
      auto& stats = stats_[static_cast<std::size_t>(input)];
      if (stats) stats->finish(fmt::format("block {}, {}", layer, name_of(static_cast<LinearInput>(input))));
    }
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
      Matrix copy(rows.rows, rows.cols);
      for (std::int64_t r = 0; r < rows.rows; ++r) std::copy_n(rows.row(r), rows.cols, copy.row(r));
      block.forward(backend_, ropes_, copy.view(), options);
    });
  }

  void prune_linear(BlockLinear& linear, const PlanEntry& entry) {
    check_interrupt();
    check_finite(linear.weight.view(), entry.tensor);
    const auto& input_stats = stats_[static_cast<std::size_t>(entry.input)];
    const LayerStats stats = input_stats ? input_stats->view() : LayerStats{};
    const PruneTarget target = entry.target(plan_.rounding);
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
    if (entry.refine == "none") {
      apply_mask(mask, linear.weight.view());
    } else {
      const Stopwatch watch(result_.seconds.refine);
      RefineTask task;
      task.weight = dense.view();
      task.mask = refiner->uses_mask() ? &mask : nullptr;
      task.target = target;
      task.measure_error = false;
      Refinement refined = refiner->refine(task, prepared(entry, *refiner, stats), backend_);
      if (refined.report.damping_raised > 0) tensor.damping = refined.report.damping;
      linear.weight = std::move(refined.weight);
      result_.weights_changed |= !refiner->keeps_weights();
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
    auto& slot = prepared_[{entry.input, entry.refine}];
    if (!slot) slot = refiner.prepare(stats, backend_, entry.tensor);
    return *slot;
  }

  void finish_result() {
    double zeros = 0.0;
    double total = 0.0;
    for (const TensorResult& tensor : result_.tensors) {
      zeros += tensor.sparsity * static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
    }
    for (const PlanEntry& entry : plan_.entries)
      total += static_cast<double>(entry.rows) * static_cast<double>(entry.cols);
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
  std::map<std::pair<LinearInput, std::string>, std::unique_ptr<PreparedGram>> prepared_;
  PruneResult result_;
};

}  // namespace

bool needs_calibration(const Plan& plan) {
  for (const PlanEntry& entry : plan.entries) {
    if (any(needs_of(entry))) return true;
  }
  return false;
}

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
