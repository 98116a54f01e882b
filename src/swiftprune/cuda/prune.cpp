#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <optional>

#include "swiftprune/core/progress.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/cuda/admm.h"
#include "swiftprune/cuda/device.h"
#include "swiftprune/cuda/streaming.h"
#include "swiftprune/cuda/streams.h"
#include "swiftprune/refinement/refiner.h"
#include "swiftprune/scoring/ria.h"
#include "swiftprune/scoring/scorer.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune::cuda {
namespace {

// "ria" of "ria(0.7)"
std::string_view base_name(std::string_view spec) { return spec.substr(0, spec.find('(')); }

// Throws Error{kUsage} for what only the CPU does.
void check_entry(const PlanEntry& entry) {
  const auto cpu_only = [&](std::string_view flag, std::string_view found, std::string_view expected) {
    bad_usage("{}: {}: found {}, expected {} on a GPU; use --device cpu", entry.tensor, flag, found,
              expected);
  };
  if (entry.pattern.kind != Pattern::Kind::kRow && entry.pattern.kind != Pattern::Kind::kNofM) {
    cpu_only("pattern", format(entry.pattern), "row or N:M");
  }
  if (entry.has_row_budgets()) cpu_only("row_budgets", "true", "false");
  const auto refiner = make_refiner(entry.refine);
  if (entry.refine != "none" && !parse_admm(refiner->name())) {
    cpu_only("refine", entry.refine, "none, admm or aligned-admm");
  }
  if (!refiner->uses_mask()) return;
  constexpr std::array<std::string_view, 6> kScores = {"magnitude", "wanda", "contribution",
                                                       "paper",     "ria",   "stade"};
  if (std::find(kScores.begin(), kScores.end(), base_name(entry.score)) == kScores.end()) {
    cpu_only("score", entry.score, fmt::format("{}", fmt::join(kScores, ", ")));
  }
}

class DevicePruner {
 public:
  DevicePruner(const Model& model, const Plan& plan, const TokenWindows& windows, const PruneOptions& options,
               const DeviceOptions& device, PruneOutput& output)
      : model_(model),
        plan_(plan),
        windows_(windows),
        options_(options),
        output_(output),
        device_(device.index),
        memory_(device.memory_bytes),
        compute_(options.compute == ComputeType::kBF16 ? DType::kBF16 : DType::kF32),
        products_(memory_, stream_),
        cpu_(make_cpu_backend()) {
    for (const PlanEntry& entry : plan.entries) entries_[entry.layer].push_back(&entry);
  }

  PruneResult run() {
    {
      const Stopwatch total(result_.seconds.total);
      prune_blocks();
    }
    double zeros = 0.0;
    double all = 0.0;
    for (const TensorResult& tensor : result_.tensors) {
      zeros += tensor.sparsity * static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
    }
    for (const PlanEntry& entry : plan_.entries) all += entry.num_weights();
    result_.sparsity = all > 0.0 ? zeros / all : 0.0;
    return std::move(result_);
  }

 private:
  void prune_blocks() {
    const std::int64_t num_layers = model_.config().num_layers();
    std::int64_t last = -1;
    for (const PlanEntry& entry : plan_.entries) {
      if (entry.prune) last = std::max(last, entry.layer);
    }
    if (last < 0) return;
    for (int i = 0; i < 2; ++i) slots_.emplace_back(memory_, model_, compute_);
    BlockLoader loader(model_, device_);
    TensorWriter writer(output_, device_);
    loader.start(0, slots_[0]);
    prepare_run();
    for (std::int64_t layer = 0; layer <= last; ++layer) {
      check_interrupt();
      BlockWeights& block = slots_[static_cast<std::size_t>(layer % 2)];
      loader.finish();
      if (layer < last) {
        stream_.synchronize();  // the block before may still be running on the weights that are replaced now
        writer.wait_read();
        loader.start(layer + 1, slots_[static_cast<std::size_t>((layer + 1) % 2)]);
      }
      block.refresh(stream_);
      if (streams_) {
        run_aligned_block(layer, block, writer, layer < last);
      } else {
        run_block(layer, block, writer, layer < last);
      }
      if (options_.progress) options_.progress("prune", layer + 1, num_layers);
    }
    writer.finish();
    stream_.synchronize();
    result_.seconds.load = loader.busy_seconds();
    result_.seconds.write = writer.busy_seconds();
  }

  // Everything on the device but the weights, sized once for all blocks.
  void prepare_run() {
    const Stopwatch watch(result_.seconds.calibrate);
    std::int64_t max_rows = 0;
    std::int64_t max_cols = 0;
    std::int64_t max_numel = 0;
    std::array<std::int64_t, kNumLinearInputs> gram_size{};
    bool refines = false;
    bool aligned = false;
    for (const PlanEntry& entry : plan_.entries) {
      if (!entry.prune) continue;
      const StatNeeds needs = stat_needs(entry);
      max_rows = std::max(max_rows, entry.rows);
      max_cols = std::max(max_cols, entry.cols);
      max_numel = std::max(max_numel, entry.rows * entry.cols);
      refines |= entry.refine != "none";
      aligned |= needs.alignment;
      auto& size = gram_size[static_cast<std::size_t>(entry.input)];
      if (needs.gram) size = std::max(size, entry.cols);
    }
    std::size_t block_linears = 0;
    for (const auto& [layer, entries] : entries_) block_linears = std::max(block_linears, entries.size());
    // One of each for every linear of a block: they are selected side by side.
    for (std::size_t i = 0; i < block_linears; ++i) {
      factors_.emplace_back(memory_, static_cast<std::uint64_t>(2 * max_cols + max_rows) * sizeof(float),
                            "scores");
      counts_.emplace_back(memory_, static_cast<std::uint64_t>(max_rows) * sizeof(std::int32_t), "scores");
    }
    sums_ = DeviceBuffer(memory_, static_cast<std::uint64_t>(max_cols + max_rows) * sizeof(double), "scores");
    counters_ = DeviceBuffer(memory_, block_linears * sizeof(PruneCounters), "counters");
    if (refines) admm_.emplace(memory_, products_, max_rows, max_cols, max_numel, stream_);
    const std::int64_t ria_scratch = statistics_scratch(max_rows, max_cols);
    abs_scratch_ = DeviceBuffer(memory_, static_cast<std::uint64_t>(ria_scratch), "scores");
    if (!needs_calibration(plan_)) return;

    const bool two_streams = aligned && options_.propagation == Propagation::kPruned;
    const std::int64_t hidden = model_.config().hidden_size;
    prepare_moments(gram_size, aligned, two_streams, hidden);
    std::int64_t widest = hidden;
    for (const PlanEntry& entry : plan_.entries) widest = std::max(widest, entry.cols);
    for (int i = 0; i < kNumLinearInputs; ++i) all_stats_.emplace_back(memory_, widest, stream_);
    const std::int64_t rows = rows_per_pass(windows_);
    scratch_.emplace(memory_, compute_, rows, widest, two_streams ? hidden : 0);
    forward_.emplace(memory_, products_, model_, rows, windows_.seqlen, compute_, stream_);
    if (two_streams) {
      pruned_.emplace(memory_, model_, compute_);
      streams_.emplace(memory_, products_, *forward_, *scratch_, model_, windows_, stream_);
    } else {
      hidden_ = embed(memory_, model_, windows_, stream_);
      if (options_.propagation == Propagation::kPruned) {
        pass_hidden_ = DeviceMatrix(memory_, DType::kF32, rows, hidden, "the hidden states of one pass");
      }
    }
  }

  // With two streams one input is in hand at a time and all share the memory; else all four collect together.
  void prepare_moments(const std::array<std::int64_t, kNumLinearInputs>& sizes, bool aligned,
                       bool two_streams, std::int64_t hidden) {
    const auto square = [](std::int64_t n) { return static_cast<std::uint64_t>(n * n) * sizeof(float); };
    const std::int64_t largest = *std::max_element(sizes.begin(), sizes.end());
    if (largest == 0) return;
    for (std::size_t i = 0; i < (two_streams ? 1 : sizes.size()); ++i) {
      moments_[i].gram = DeviceBuffer(memory_, square(two_streams ? largest : sizes[i]), "Gram matrices");
    }
    if (aligned) moments_[0].cross = DeviceBuffer(memory_, square(largest), "cross moments");
    if (two_streams) {
      moments_[0].residual = DeviceBuffer(
          memory_, static_cast<std::uint64_t>(hidden * largest) * sizeof(float), "residual moments");
    }
  }

  void run_block(std::int64_t layer, BlockWeights& block, TensorWriter& writer, bool more_to_come) {
    const std::vector<const PlanEntry*>& entries = entries_.at(layer);
    collect(layer, block, entries, more_to_come);
    start_counters();
    for (int i = 0; i < kNumLinearInputs; ++i)
      prune_linears(block, block, entries, static_cast<LinearInput>(i));
    finish_linears(block, entries, writer);
    if (hidden_.empty() || !more_to_come || options_.propagation != Propagation::kPruned) return;
    const Stopwatch watch(result_.seconds.calibrate);
    block.refresh(stream_);
    for_passes(windows_, [&](std::int64_t first, std::int64_t rows) {
      forward_->run(block, hidden_.view().row_block(first, rows));
    });
  }

  void run_aligned_block(std::int64_t layer, BlockWeights& dense, TensorWriter& writer, bool more_to_come) {
    const std::vector<const PlanEntry*>& entries = entries_.at(layer);
    writer.wait_read();
    pruned_->copy_from(dense, stream_);
    streams_->start_block(dense, *pruned_);
    start_counters();
    const auto needs = needs_by_input(entries);
    for (int i = 0; i < kNumLinearInputs; ++i) {
      const auto input = static_cast<LinearInput>(i);
      const auto index = static_cast<std::size_t>(i);
      {
        const Stopwatch watch(result_.seconds.calibrate);
        if (needs[index].any()) {
          const bool output = input == LinearInput::kAttentionOutput || input == LinearInput::kMlpOutput;
          const bool residual = output && !BlockForward::norms_output(dense, input);
          start_stats(input, entries, needs[index], moments_[0], residual ? model_.config().hidden_size : 0);
        }
        streams_->collect(input, stats_[index]);
        finish_stats(layer, input);
      }
      prune_linears(dense, *pruned_, entries, input);
      pruned_->refresh(input, stream_);
      stats_[index] = nullptr;
    }
    if (more_to_come) {
      const Stopwatch watch(result_.seconds.calibrate);
      streams_->finish_block();
    }
    finish_linears(*pruned_, entries, writer);
  }

  void start_stats(LinearInput input, const std::vector<const PlanEntry*>& entries, const StatNeeds& needs,
                   const Moments& moments, std::int64_t residual_size) {
    DeviceStats& stats = all_stats_[static_cast<std::size_t>(input)];
    stats.start(cols_of(entries, input), needs, moments, residual_size);
    stats_[static_cast<std::size_t>(input)] = &stats;
  }

  static std::int64_t cols_of(const std::vector<const PlanEntry*>& entries, LinearInput input) {
    for (const PlanEntry* entry : entries) {
      if (entry->input == input) return entry->cols;
    }
    return 0;
  }

  static std::array<StatNeeds, kNumLinearInputs> needs_by_input(
      const std::vector<const PlanEntry*>& entries) {
    std::array<StatNeeds, kNumLinearInputs> needs{};
    for (const PlanEntry* entry : entries) {
      StatNeeds& of_input = needs[static_cast<std::size_t>(entry->input)];
      of_input = of_input | stat_needs(*entry);
    }
    return needs;
  }

  // One pass over the windows with the block still dense; with dense propagation it is the only one.
  void collect(std::int64_t layer, BlockWeights& block, const std::vector<const PlanEntry*>& entries,
               bool more_to_come) {
    stats_ = {};
    if (hidden_.empty()) return;
    const Stopwatch watch(result_.seconds.calibrate);
    auto needs = needs_by_input(entries);
    bool observed = false;
    for (std::size_t i = 0; i < needs.size(); ++i) {
      needs[i].alignment = false;
      if (!needs[i].any()) continue;
      start_stats(static_cast<LinearInput>(i), entries, needs[i], moments_[i], 0);
      observed = true;
    }
    const bool dense = options_.propagation == Propagation::kDense;
    if (!observed && !(dense && more_to_come)) return;
    const DeviceObserver observer = [&](LinearInput input, DeviceView x) {
      DeviceStats* stats = stats_[static_cast<std::size_t>(input)];
      if (stats == nullptr) return;
      for (std::int64_t first = 0; first < x.rows; first += windows_.seqlen) {
        stats->add_window(*scratch_, x.row_block(first, windows_.seqlen));
      }
      stats->add_gram(products_, x);
    };
    for_passes(windows_, [&](std::int64_t first, std::int64_t rows) {
      DeviceView hidden = hidden_.view().row_block(first, rows);
      if (!dense) {
        const DeviceView copy = pass_hidden_.view().row_block(0, rows);
        check(cudaMemcpyAsync(copy.data, hidden.data,
                              static_cast<std::size_t>(hidden.numel()) * sizeof(float),
                              cudaMemcpyDeviceToDevice, stream_));
        hidden = copy;
      }
      forward_->run(block, hidden, &observer);
    });
    for (int i = 0; i < kNumLinearInputs; ++i) finish_stats(layer, static_cast<LinearInput>(i));
  }

  void finish_stats(std::int64_t layer, LinearInput input) {
    DeviceStats* stats = stats_[static_cast<std::size_t>(input)];
    if (stats != nullptr) stats->finish(fmt::format("block {}, {}", layer, name_of(input)));
  }

  void start_counters() {
    check(cudaMemsetAsync(counters_.data(), 0, counters_.bytes(), stream_));
    damping_.clear();
  }

  // Those that read `input`: from `dense` into `pruned`, which may be the same.
  void prune_linears(const BlockWeights& dense, const BlockWeights& pruned,
                     const std::vector<const PlanEntry*>& entries, LinearInput input) {
    std::string prepared;  // the refinement that admm_ is prepared for
    lanes_.fork(stream_);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const PlanEntry& entry = *entries[i];
      if (!entry.prune || entry.input != input) continue;
      check_interrupt();
      PruneCounters* counters = counters_.as<PruneCounters>() + i;
      if (entry.refine == "none") {
        select(dense.weight(i), i, entry, pruned.weight(i), counters);
        continue;
      }
      const Stopwatch watch(result_.seconds.refine);
      if (prepared != entry.refine) {
        if (!prepared.empty()) {
          bad_usage(
              "{}: refine: found {}, expected {} as for the other linears of its input on a GPU; use "
              "--device cpu",
              entry.tensor, entry.refine, prepared);
        }
        prepared = entry.refine;
        admm_->prepare(*stats_[static_cast<std::size_t>(input)],
                       *parse_admm(make_refiner(entry.refine)->name()), moments_[0].cross.as<float>(),
                       entry.tensor);
      }
      admm_->refine(dense.weight(i), entry.target(plan_.rounding), pruned.weight(i), counters);
      if (admm_->damping_raised()) damping_[i] = admm_->damping();
      result_.weights_changed = true;
    }
    lanes_.join(stream_);
  }

  void select(DeviceView weight, std::size_t linear, const PlanEntry& entry, DeviceView out,
              PruneCounters* counters) {
    const cudaStream_t lane = lanes_.next();
    const DeviceStats* stats = stats_[static_cast<std::size_t>(entry.input)];
    PruneRowsArgs args;
    args.in = weight.data;
    args.out = out.data;
    args.dtype = weight.dtype;
    args.rows = weight.rows;
    args.cols = weight.cols;
    args.counters = counters;
    {
      const Stopwatch watch(result_.seconds.score);
      set_factors(weight, entry, stats != nullptr ? stats->view() : LayerStats{}, factors_[linear], lane,
                  args);
    }
    const Stopwatch watch(result_.seconds.select);
    const PruneTarget target = entry.target(plan_.rounding);
    if (entry.pattern.kind == Pattern::Kind::kNofM) {
      prune_groups(args, static_cast<int>(entry.pattern.n), static_cast<int>(entry.pattern.m), lane);
      return;
    }
    const std::vector<std::int64_t> counts = row_prune_counts(target, entry.rows, entry.cols);
    const bool uniform = std::all_of(counts.begin(), counts.end(),
                                     [&](std::int64_t count) { return count == counts.front(); });
    if (!uniform) {
      const std::vector<std::int32_t> narrow(counts.begin(), counts.end());
      check(cudaMemcpyAsync(counts_[linear].data(), narrow.data(), narrow.size() * sizeof(std::int32_t),
                            cudaMemcpyHostToDevice, lane));
    }
    prune_rows(args, counts.front(), uniform ? nullptr : counts_[linear].as<std::int32_t>(), lane);
  }

  // The score's factors on the device. All scores here are functions of the statistics alone, but for ria.
  void set_factors(DeviceView weight, const PlanEntry& entry, const LayerStats& stats,
                   const DeviceBuffer& factors, cudaStream_t lane, PruneRowsArgs& args) {
    if (base_name(entry.score) == "magnitude") return;
    Scores scores;
    if (base_name(entry.score) == "ria") {
      scores = ria_scores(weight, entry, stats);
    } else {
      scores = make_scorer(entry.score)
                   ->score({nullptr, weight.dtype, weight.rows, weight.cols, weight.cols}, stats, *cpu_,
                           entry.tensor);
    }
    auto* place = factors.as<float>();
    const auto put = [&](const std::vector<float>& values) -> const float* {
      if (values.empty()) return nullptr;
      const float* start = place;
      check(
          cudaMemcpyAsync(place, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice, lane));
      place += values.size();
      return start;
    };
    args.column = put(scores.column);
    args.slope = put(scores.slope);
    args.row = put(scores.row);
  }

  Scores ria_scores(DeviceView weight, const PlanEntry& entry, const LayerStats& stats) {
    auto* column_sums = sums_.as<double>();
    auto* row_sums = column_sums + weight.cols;
    abs_sums(weight.data, weight.dtype, weight.rows, weight.cols, row_sums, column_sums, abs_scratch_.data(),
             stream_);
    std::vector<double> host(static_cast<std::size_t>(weight.cols + weight.rows));
    check(cudaMemcpyAsync(host.data(), column_sums, host.size() * sizeof(double), cudaMemcpyDeviceToHost,
                          stream_));
    stream_.synchronize();
    const std::span<const double> all(host);
    const auto cols = static_cast<std::size_t>(weight.cols);
    const std::string name = make_scorer(entry.score)->name();  // with its exponent
    return swiftprune::ria_scores(numbers_in_brackets(name).at(0), all.first(cols), all.subspan(cols), stats);
  }

  // Reads the counters of a block whose linears are all launched, and hands its tensors to the writer.
  void finish_linears(const BlockWeights& block, const std::vector<const PlanEntry*>& entries,
                      TensorWriter& writer) {
    std::vector<PruneCounters> counters(entries.size());
    {
      const Stopwatch watch(refines() ? result_.seconds.refine : result_.seconds.select);
      check(cudaMemcpyAsync(counters.data(), counters_.data(), counters.size() * sizeof(PruneCounters),
                            cudaMemcpyDeviceToHost, stream_));
      stream_.synchronize();
    }
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const PlanEntry& entry = *entries[i];
      if (!entry.prune) continue;
      if (counters[i].not_finite != 0) fail_not_finite(entry);
      TensorResult tensor{entry.tensor,
                          format(entry.pattern),
                          entry.rows,
                          entry.cols,
                          entry.asked_sparsity(),
                          0.0,
                          {},
                          {},
                          {}};
      const unsigned long long zeros =
          std::accumulate(std::begin(counters[i].zeros), std::end(counters[i].zeros), 0ULL);
      tensor.sparsity = static_cast<double>(zeros) / static_cast<double>(entry.rows * entry.cols);
      if (const auto raised = damping_.find(i); raised != damping_.end()) tensor.damping = raised->second;
      result_.tensors.push_back(std::move(tensor));
      writer.write(entry.tensor, block.weight(i));
    }
  }

  bool refines() const { return admm_.has_value(); }

  // The weight itself, or what was computed from it.
  [[noreturn]] void fail_not_finite(const PlanEntry& entry) const {
    const Matrix weight = model_.checkpoint().load_matrix(entry.tensor, entry.rows, entry.cols);
    for (std::int64_t r = 0; r < entry.rows; ++r) {
      for (std::int64_t c = 0; c < entry.cols; ++c) {
        if (std::isfinite(weight.at(r, c))) continue;
        bad_input("tensor '{}': found {} at row {}, column {}, expected finite weights; nothing was written",
                  entry.tensor, weight.at(r, c), r, c);
      }
    }
    bad_input(
        "tensor '{}': its scores or refined weights are not finite, expected finite ones; try --compute f32; "
        "nothing was written",
        entry.tensor);
  }

  const Model& model_;
  const Plan& plan_;
  const TokenWindows& windows_;
  const PruneOptions& options_;
  PruneOutput& output_;
  int device_;
  DeviceMemory memory_;
  Stream stream_;
  DType compute_;
  Products products_;
  std::unique_ptr<Backend> cpu_;  // asked for by the scorers' interface
  std::map<std::int64_t, std::vector<const PlanEntry*>> entries_;
  std::vector<BlockWeights> slots_;
  Lanes lanes_;
  std::vector<DeviceBuffer> factors_, counts_;  // by linear
  DeviceBuffer sums_, abs_scratch_, counters_;
  std::array<Moments, kNumLinearInputs> moments_;
  std::optional<DeviceAdmm> admm_;
  std::optional<StatisticsScratch> scratch_;
  std::optional<BlockForward> forward_;
  std::optional<BlockWeights> pruned_;  // of a run with two streams
  std::optional<DeviceTwoStreams> streams_;
  DeviceMatrix hidden_;                                 // [N, hidden] F32 of a run with one
  DeviceMatrix pass_hidden_;                            // [rows of a pass, hidden] F32
  std::vector<DeviceStats> all_stats_;                  // by LinearInput; empty without calibration
  std::array<DeviceStats*, kNumLinearInputs> stats_{};  // those that the block in hand fills
  std::map<std::size_t, double> damping_;               // raised ones of the block in hand, by linear
  PruneResult result_;
};

}  // namespace

PruneResult prune(const Model& model, const Plan& plan, const TokenWindows& windows,
                  const PruneOptions& options, const DeviceOptions& device, PruneOutput& output) {
  if (has_packed_tensors(model.checkpoint())) {
    bad_input("{}: a packed model cannot be pruned; make it dense first: swiftprune unpack",
              model.checkpoint().folder().string());
  }
  expect(options.finished.empty(), "prune on a GPU: no finished blocks");
  if (options.select == "ewma") {
    bad_usage("--select: found ewma, expected an exact selection on a GPU; use --device cpu");
  }
  for (const PlanEntry& entry : plan.entries) {
    if (entry.prune) check_entry(entry);
  }
  if (needs_calibration(plan))
    expect(windows.num_windows() > 0, "prune: calibration windows for a method that needs them");
  check(cudaSetDevice(device.index));
  return DevicePruner(model, plan, windows, options, device, output).run();
}

}  // namespace swiftprune::cuda
