#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <optional>

#include "swiftprune/core/progress.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/cuda/capabilities.h"
#include "swiftprune/cuda/device.h"
#include "swiftprune/cuda/forward/streaming.h"
#include "swiftprune/cuda/pipeline/linear_pruner.h"
#include "swiftprune/cuda/pipeline/streams.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune::cuda {
namespace {

// What else may be allocated while blocks run is small beside a block.
constexpr std::uint64_t kRoomForSecondSlot = 3;

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
        products_(memory_, stream_) {
    for (const PlanEntry& entry : plan.entries) {
      entries_[entry.layer].push_back(&entry);
      has_budgets_ |= entry.has_row_budgets();
    }
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
        if (!streams_) writer.wait_read();  // else it reads the pruned slots
        loader.start(layer + 1, slots_[static_cast<std::size_t>((layer + 1) % 2)]);
      }
      block.refresh(stream_);
      if (layer < std::ssize(options_.finished)) {
        pass_through(layer, block, layer < last);
      } else if (streams_) {
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
    std::array<std::int64_t, kNumLinearInputs> gram_size{};
    bool aligned = false;
    for (const PlanEntry& entry : plan_.entries) {
      if (!entry.prune) continue;
      const StatNeeds needs = stat_needs(entry);
      aligned |= needs.alignment;
      auto& size = gram_size[static_cast<std::size_t>(entry.input)];
      if (needs.gram) size = std::max(size, entry.cols);
    }
    std::size_t block_linears = 0;
    for (const auto& [layer, entries] : entries_) block_linears = std::max(block_linears, entries.size());
    pruner_.emplace(memory_, products_, plan_, block_linears, compute_, stream_, result_.seconds);
    if (!needs_calibration(plan_)) return;

    const bool two_streams = aligned && options_.propagation == Propagation::kPruned;
    const std::int64_t hidden = model_.config().hidden_size;
    prepare_moments(gram_size, aligned, two_streams, hidden);
    std::int64_t widest = hidden;
    for (const PlanEntry& entry : plan_.entries) widest = std::max(widest, entry.cols);
    for (int i = 0; i < kNumLinearInputs; ++i) all_stats_.emplace_back(memory_, widest, stream_);
    const std::int64_t rows = rows_per_pass(windows_);
    scratch_.emplace(memory_, compute_, rows, widest, two_streams ? widest : 0, two_streams ? hidden : 0);
    forward_.emplace(memory_, products_, model_, rows, windows_.seqlen, compute_, stream_);
    if (has_budgets_) {
      effects_.emplace(memory_, products_, *forward_, model_,
                       options_.readers.empty() ? measured_readers() : options_.readers, stream_);
    }
    if (two_streams) {
      pruned_slots_.emplace_back(memory_, model_, compute_);
      streams_.emplace(memory_, products_, *forward_, *scratch_, model_, windows_, stream_);
      // A second one where there is room: a block's tensors leave the device while the next computes.
      const std::uint64_t free = memory_.limit() - memory_.used();
      if (free > kRoomForSecondSlot * pruned_slots_.front().bytes())
        pruned_slots_.emplace_back(memory_, model_, compute_);
    } else {
      hidden_ = embed(memory_, model_, windows_, stream_);
      if (options_.propagation == Propagation::kPruned) {
        pass_hidden_ = DeviceMatrix(memory_, DType::kF32, rows, hidden, "the hidden states of one pass");
      }
    }
  }

  // A pass over all blocks' weights.
  std::vector<RowEffects::Readers> measured_readers() {
    ColumnEnergies columns(memory_, model_, stream_);
    BlockWeights block(memory_, model_, compute_);
    BlockLoader loader(model_, device_);
    std::vector<RowEffects::Readers> readers;
    for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
      check_interrupt();
      loader.start(layer, block);
      loader.finish();
      readers.push_back(columns.readers_of(block));  // waits for the device
    }
    return readers;
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

  // A block that an earlier run finished: what comes out of it is what came out then.
  void pass_through(std::int64_t layer, BlockWeights& block, bool more_to_come) {
    const FinishedBlock& finished = options_.finished[static_cast<std::size_t>(layer)];
    result_.tensors.insert(result_.tensors.end(), finished.tensors.begin(), finished.tensors.end());
    result_.weights_changed |= finished.weights_changed;
    ++result_.resumed_blocks;
    if (!more_to_come || (!streams_ && hidden_.empty())) return;
    const Stopwatch watch(result_.seconds.calibrate);
    if (streams_) {
      BlockWeights& pruned = pruned_slots_.front();
      pruned.copy_from(block, stream_);
      load_finished(finished, pruned);
      streams_->start_block(block, pruned);
      for (int input = 0; input < kNumLinearInputs; ++input)
        streams_->collect(static_cast<LinearInput>(input), nullptr);
      streams_->finish_block();
      return;
    }
    if (options_.propagation == Propagation::kPruned) load_finished(finished, block);
    forward(block);
  }

  // The pruned weights that were written, in place of the block's.
  void load_finished(const FinishedBlock& finished, BlockWeights& block) {
    for (const TensorResult& tensor : finished.tensors) {
      const auto& weights = block.layout().weights;
      const auto found = std::find_if(weights.begin(), weights.end(),
                                      [&](const auto& weight) { return weight.tensor == tensor.name; });
      expect(found != weights.end(), "prune on a GPU: a finished tensor of the block");
      std::vector<float> values(static_cast<std::size_t>(found->rows * found->cols));
      output_.read(tensor.name, values);
      std::vector<std::byte> bytes(found->bytes());
      convert_from_f32(values, found->dtype, bytes);
      check(cudaMemcpyAsync(block.data() + found->offset, bytes.data(), bytes.size(), cudaMemcpyHostToDevice,
                            stream_));
      stream_.synchronize();  // `bytes` lives until here
    }
    block.refresh(stream_);
  }

  void forward(const BlockWeights& block) {
    for_passes(windows_, [&](std::int64_t first, std::int64_t rows) {
      forward_->run(block, hidden_.view().row_block(first, rows));
    });
  }

  void run_block(std::int64_t layer, BlockWeights& block, TensorWriter& writer, bool more_to_come) {
    const std::vector<const PlanEntry*>& entries = entries_.at(layer);
    collect(layer, block, entries, more_to_come);
    pruner_->start_block();
    for (int i = 0; i < kNumLinearInputs; ++i)
      prune_linears(block, block, entries, static_cast<LinearInput>(i));
    finish_linears(layer, block, entries, writer);
    if (hidden_.empty() || !more_to_come || options_.propagation != Propagation::kPruned) return;
    const Stopwatch watch(result_.seconds.calibrate);
    block.refresh(stream_);
    forward(block);
  }

  void run_aligned_block(std::int64_t layer, BlockWeights& dense, TensorWriter& writer, bool more_to_come) {
    const std::vector<const PlanEntry*>& entries = entries_.at(layer);
    writer.wait_read(pruned_slots_.size() > 1);
    BlockWeights& pruned = pruned_slots_[static_cast<std::size_t>(layer) % pruned_slots_.size()];
    pruned.copy_from(dense, stream_);
    streams_->start_block(dense, pruned);
    pruner_->start_block();
    const auto needs = needs_by_input(entries);
    for (int i = 0; i < kNumLinearInputs; ++i) {
      const auto input = static_cast<LinearInput>(i);
      const auto index = static_cast<std::size_t>(i);
      {
        const Stopwatch watch(result_.seconds.calibrate);
        if (needs[index].any()) {
          const bool residual = is_output(input) && !BlockForward::norms_output(dense, input);
          start_stats(input, entries, needs[index], moments_[0], residual ? model_.config().hidden_size : 0);
        }
        streams_->collect(input, stats_[index]);
        finish_stats(layer, input);
      }
      prune_linears(dense, pruned, entries, input);
      pruned.refresh(input, stream_);
      stats_[index] = nullptr;
    }
    if (more_to_come) {
      const Stopwatch watch(result_.seconds.calibrate);
      streams_->finish_block();
    }
    finish_linears(layer, pruned, entries, writer);
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
      stats->add_windows(*scratch_, x, windows_.seqlen);
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

  void prune_linears(const BlockWeights& dense, const BlockWeights& pruned,
                     const std::vector<const PlanEntry*>& entries, LinearInput input) {
    pruner_->prune(dense, pruned, entries, input, stats_[static_cast<std::size_t>(input)],
                   moments_[0].cross.as<float>(), effects_ ? &*effects_ : nullptr);
  }

  // Reads the counters of a block whose linears are all launched, and hands its tensors to the writer.
  void finish_linears(std::int64_t layer, const BlockWeights& block,
                      const std::vector<const PlanEntry*>& entries, TensorWriter& writer) {
    const auto first = static_cast<std::ptrdiff_t>(result_.tensors.size());
    std::vector<PruneCounters> counters;
    {
      const Stopwatch watch(pruner_->refines() ? result_.seconds.refine : result_.seconds.select);
      counters = pruner_->counters(entries.size());
    }
    result_.weights_changed |= pruner_->weights_changed();
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
      tensor.damping = pruner_->raised_damping(i);
      result_.tensors.push_back(std::move(tensor));
      writer.write(entry.tensor, block.weight(i));
    }
    writer.end_block(
        {layer, pruner_->weights_changed(), {result_.tensors.begin() + first, result_.tensors.end()}});
  }

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
  std::map<std::int64_t, std::vector<const PlanEntry*>> entries_;
  std::vector<BlockWeights> slots_;
  std::array<Moments, kNumLinearInputs> moments_;
  std::optional<LinearPruner> pruner_;
  std::optional<DeviceRowEffects> effects_;  // where the plan has row budgets
  bool has_budgets_ = false;
  std::optional<StatisticsScratch> scratch_;
  std::optional<BlockForward> forward_;
  std::vector<BlockWeights> pruned_slots_;  // of a run with two streams: one or two
  std::optional<DeviceTwoStreams> streams_;
  DeviceMatrix hidden_;                                 // [N, hidden] F32 of a run with one
  DeviceMatrix pass_hidden_;                            // [rows of a pass, hidden] F32
  std::vector<DeviceStats> all_stats_;                  // by LinearInput; empty without calibration
  std::array<DeviceStats*, kNumLinearInputs> stats_{};  // those that the block in hand fills
  PruneResult result_;
};

}  // namespace

PruneResult prune(const Model& model, const Plan& plan, const TokenWindows& windows,
                  const PruneOptions& options, const DeviceOptions& device, PruneOutput& output) {
  if (has_packed_tensors(model.checkpoint())) {
    bad_input("{}: a packed model cannot be pruned; make it dense first: swiftprune unpack",
              model.checkpoint().folder().string());
  }
  check_plan(plan, options.select, capabilities());
  if (needs_calibration(plan))
    expect(windows.num_windows() > 0, "prune: calibration windows for a method that needs them");
  check(cudaSetDevice(device.index));
  return DevicePruner(model, plan, windows, options, device, output).run();
}

}  // namespace swiftprune::cuda
