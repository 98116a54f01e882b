// pipeline/drivers/prune_shop.h on the device: blocks stream from the mapped files to the device, pruned
// tensors back, while others compute.
#include "swiftprune/pipeline/drivers/prune_shop.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/cuda/pipeline/block_slots.h"
#include "swiftprune/cuda/pipeline/output_errors.h"
#include "swiftprune/cuda/pipeline/row_effects.h"
#include "swiftprune/cuda/pipeline/stream_ops.h"
#include "swiftprune/cuda/refinement/refiner.h"
#include "swiftprune/cuda/selection/selector.h"
#include "swiftprune/cuda/stages.h"
#include "swiftprune/pipeline/drivers/shared_refinement.h"
#include "swiftprune/pipeline/streams/rank_windows.h"
#include "swiftprune/pipeline/streams/two_streams.h"
#include "swiftprune/pipeline/streams/whole_stream.h"

namespace swiftprune::cuda {
namespace {

// What else may be allocated while blocks run is small beside a block.
constexpr std::uint64_t kRoomForSecondSlot = 3;
// Rows of a linear that are refined at a time, where rows do not depend on one another: enough for the GPU to be busy,
// and what ranks share out. With one rank they are cut alike, for the products' bits may depend on their sizes.
constexpr std::int64_t kRefinedRows = 1024;

class CudaPruneShop final : public PruneShop {
 public:
  CudaPruneShop(const PruneRun& run, const GpuOptions& device)
      : run_(run),
        device_(device.index),
        memory_(device.memory_bytes),
        compute_(run.options.compute == ComputeType::kBF16 ? DType::kBF16 : DType::kF32),
        ranks_(*run.options.ranks),
        share_(rank_windows(run.windows, ranks_, kTokensPerPass)),
        windows_(windows_of_rank(run.windows, share_)),
        products_(memory_, stream_),
        slots_(memory_, run.model, compute_, device_, stream_),
        writer_(run.output, device_) {
    if (ranks_.size() > 1) shared_.emplace(ranks_, run.windows, share_.first);
    slots_.prefetch(0);
    const Stopwatch watch(run.seconds.calibrate);
    make_room_for_linears();
    if (run.calibrated) make_room_for_windows();
  }

  void load(std::int64_t layer) override {
    layer_ = layer;
    // With two streams the writer reads the pruned slots instead.
    slots_.load(layer, layer < run_.last_layer ? layer + 1 : -1, [&] {
      if (!two_) writer_.wait_read();
    });
    check(cudaMemsetAsync(counters_.data(), 0, counters_.bytes(), stream_));
    if (errors_) errors_->start_block();
    damping_.assign(dense().layout().weights.size(), std::nullopt);
    refined_here_.assign(damping_.size(), false);
    quantized_.assign(damping_.size(), std::nullopt);
    pruned_is_copy_ = false;
  }

  void load_finished(const FinishedBlock& finished) override {
    copy_dense();
    BlockWeights& block = pruned();
    for (const TensorResult& tensor : finished.tensors) {
      const auto& weights = block.layout().weights;
      const auto found = std::find_if(weights.begin(), weights.end(),
                                      [&](const auto& weight) { return weight.tensor == tensor.name; });
      expect(found != weights.end(), "load_finished: a tensor of the block");
      std::vector<float> values(static_cast<std::size_t>(found->rows * found->cols));
      if (ranks_.is_first()) run_.output.read(tensor.name, values);
      ranks_.broadcast(0, std::as_writable_bytes(std::span(values)));
      std::vector<std::byte> bytes(found->bytes());
      convert_from_f32(values, found->dtype, bytes);
      check(cudaMemcpyAsync(block.data() + found->offset, bytes.data(), bytes.size(), cudaMemcpyHostToDevice,
                            stream_));
      stream_.synchronize();  // `bytes` lives until here
    }
    block.refresh(stream_);
  }

  bool norms_output(LinearInput output) const override {
    return BlockForward::norms_output(slots_.block(), output);
  }

  void look(const NeedsOfInputs& needs, bool passes) override {
    WholeStream<DeviceStreamOps>::StatsOfInputs stats{};
    for (std::size_t i = 0; i < needs.size(); ++i) {
      if (needs[i].any()) stats[i] = start_stats(static_cast<LinearInput>(i), needs[i], moments_[i], false);
    }
    passes ? one_->pass(dense(), stats) : one_->look(dense(), stats);
    for (std::size_t i = 0; i < needs.size(); ++i) finish_stats(static_cast<LinearInput>(i));
  }

  void start_block() override {
    copy_dense();
    two_->start_block(dense(), pruned());
  }

  void collect(LinearInput input, const StatNeeds* needs, bool residual) override {
    DeviceStats* stats = needs != nullptr ? start_stats(input, *needs, moments_[0], residual) : nullptr;
    two_->collect(input, stats);
    finish_stats(input);
  }

  void start_input(LinearInput input) override {
    input_stats_ = stats_[static_cast<std::size_t>(input)];
    refiner_is_ready_ = false;
    loads_.assign(static_cast<std::size_t>(ranks_.size()), 0);
    selector_->start_input();
    lanes_.fork(stream_);
  }

  std::vector<std::vector<float>> row_effects(LinearInput input) override {
    expect(effects_ && input_stats_ != nullptr, "row budgets: effects and statistics");
    return effects_->of(dense(), layer_, input, *input_stats_);
  }

  std::vector<std::int64_t> threshold_counts(std::size_t linear, std::span<const float> effects,
                                             const PruneTarget& target) override {
    const DeviceView weight = dense().weight(linear);
    return selector_->threshold_counts(weight, input_stats_->view().energy, effects,
                                       total_prune_count(target, weight.rows, weight.cols));
  }

  void select(std::size_t linear, const PlanEntry& entry, const PruneTarget& target,
              bool masks_only) override {
    const cudaStream_t lane = DeviceSelector::is_independent(entry) ? lanes_.next() : stream_;
    const DeviceView weight = dense().weight(linear);
    if (errors_ && input_stats_ != nullptr) errors_->keep(linear, weight, lane);
    DeviceSelector::Scored scored;
    {
      const Stopwatch watch(run_.seconds.score);
      scored = selector_->score(weight, linear, entry, input_stats_, lane);
    }
    const Stopwatch watch(run_.seconds.select);
    PruneCounters* counters = counters_of(linear);
    if (masks_only) {
      selector_->select_mask(scored, weight, linear, target, counters);
    } else {
      selector_->select(scored, weight, linear, target, pruned().weight(linear), nullptr, counters, lane);
    }
  }

  void refine(std::size_t linear, const PlanEntry& entry, const PruneTarget& target) override {
    const Stopwatch watch(run_.seconds.refine);
    const DeviceView weight = dense().weight(linear);
    const DeviceView out = pruned().weight(linear);
    if (errors_ && input_stats_ != nullptr) errors_->keep(linear, weight, stream_);
    if (!std::exchange(refiner_is_ready_, true))
      refiner_->prepare(entry.refine, input_stats_, moments_[0].cross.as<float>(), entry.tensor);
    damping_[linear] = refiner_->raised_damping();
    if (entry.grid) {
      quantized_[linear] =
          refiner_->refine_on_grid(weight, selector_->mask(), target, *entry.grid, out, counters_of(linear));
      return;
    }
    refined_here_[linear] = true;
    const std::vector<Part> parts = parts_of(entry, target, weight.rows);
    for (const Part& part : parts) {
      if (part.rank != ranks_.rank()) continue;
      PruneTarget rows = target;
      if (!rows.row_counts.empty()) {
        rows.row_counts = rows.row_counts.subspan(static_cast<std::size_t>(part.first),
                                                  static_cast<std::size_t>(part.count));
      }
      std::uint8_t* mask = selector_->mask();
      refiner_->refine(weight.row_block(part.first, part.count),
                       mask != nullptr ? mask + part.first * weight.cols : nullptr, rows,
                       out.row_block(part.first, part.count), counters_of(linear), part.first);
    }
    share_rows(parts, out);
  }

  void end_input(LinearInput input) override {
    lanes_.join(stream_);
    if (shared_) {
      shared_->arrived.record(shared_->exchange);
      shared_->arrived.hold(stream_);
    }
    if (errors_ && input_stats_ != nullptr) {
      const auto& weights = dense().layout().weights;
      for (std::size_t i = 0; i < weights.size(); ++i) {
        if (weights[i].input != input) continue;
        const bool prepared = refiner_is_ready_ && input_stats_->gram() != nullptr;
        errors_->measure(i, pruned().weight(i), *input_stats_, prepared ? &*refiner_ : nullptr);
      }
    }
    if (run_.aligned) pruned().refresh(input, stream_);
    stats_[static_cast<std::size_t>(input)] = input_stats_ = nullptr;
  }

  void end_linears() override {
    if (shared_) combine_counters();
    check(cudaMemcpyAsync(host_counters_.data(), counters_.data(), counters_.bytes(), cudaMemcpyDeviceToHost,
                          stream_));
    if (errors_) errors_->download();
    linears_ended_.record(stream_);
  }

  void pass() override {
    if (run_.aligned) return two_->finish_block();
    pruned().refresh(stream_);
    one_->pass(pruned());
  }

  std::vector<LinearOutcome> outcomes() override {
    {
      const Stopwatch watch(refiner_ ? run_.seconds.refine : run_.seconds.select);
      linears_ended_.synchronize();
    }
    const auto& weights = dense().layout().weights;
    const auto* counters = reinterpret_cast<const PruneCounters*>(host_counters_.data());
    std::vector<LinearOutcome> outcomes(weights.size());
    for (std::size_t i = 0; i < weights.size(); ++i) {
      if (counters[i].not_finite != 0) fail_not_finite(weights[i]);
      outcomes[i].zeros = static_cast<std::int64_t>(
          std::accumulate(std::begin(counters[i].zeros), std::end(counters[i].zeros), 0ULL));
      if (errors_) outcomes[i].error = errors_->error(i);
      outcomes[i].damping = damping_[i];
    }
    return outcomes;
  }

  void write(std::size_t linear) override {
    const std::string& tensor = pruned().layout().weights[linear].tensor;
    if (quantized_[linear] && run_.output.keeps_grids()) {
      run_.output.write_quantized(tensor, *quantized_[linear]);
    } else {
      writer_.write(tensor, pruned().weight(linear));
    }
    quantized_[linear].reset();
  }

  void end_block(FinishedBlock block) override {
    writer_.end_block([this, block = std::move(block)] { run_.output.finish(block); });
  }

  void finish() override {
    writer_.finish();
    stream_.synchronize();
    run_.seconds.load = slots_.busy_seconds();
    run_.seconds.write = writer_.busy_seconds();
  }

 private:
  // Rows of a linear, and the rank that refines them.
  struct Part {
    std::int64_t first = 0, count = 0;
    int rank = 0;
  };

  // Each to the rank that has least of the input in hand; all ranks find the same.
  std::vector<Part> parts_of(const PlanEntry& entry, const PruneTarget& target, std::int64_t rows) {
    const std::int64_t step = refines_by_rows(entry, target) ? kRefinedRows : rows;
    std::vector<Part> parts;
    for (std::int64_t first = 0; first < rows; first += step) {
      const auto least = std::min_element(loads_.begin(), loads_.end());
      const Part part{first, std::min(step, rows - first), static_cast<int>(least - loads_.begin())};
      *least += part.count;
      parts.push_back(part);
    }
    return parts;
  }

  // To all, beside what is refined next.
  void share_rows(const std::vector<Part>& parts, DeviceView out) {
    if (!shared_) return;
    expect(out.stride == out.cols, "ranks: weights that are contiguous");
    shared_->added.record(stream_);
    shared_->added.hold(shared_->exchange);
    for (const Part& part : parts) {
      const DeviceView rows = out.row_block(part.first, part.count);
      shared_->link.broadcast(part.rank, rows.data,
                              static_cast<std::uint64_t>(rows.numel() * size_of(rows.dtype)),
                              shared_->exchange);
    }
  }

  // What is refined by parts is counted where that happens, everything else by all ranks alike.
  void combine_counters() {
    for (std::size_t i = 0; i < refined_here_.size() && !ranks_.is_first(); ++i) {
      if (!refined_here_[i]) check(cudaMemsetAsync(counters_of(i), 0, sizeof(PruneCounters), stream_));
    }
    static_assert(sizeof(PruneCounters) % sizeof(std::uint64_t) == 0);
    shared_->link.sum(counters_.data(), static_cast<std::int64_t>(counters_.bytes() / sizeof(std::uint64_t)),
                      stream_);
    shared_->link.wait(stream_);
  }

  BlockWeights& dense() { return slots_.block(); }
  // Where pruned weights go: a block beside the dense one in an aligned run, else the same.
  BlockWeights& pruned() {
    return run_.aligned ? pruned_slots_[static_cast<std::size_t>(layer_) % pruned_slots_.size()] : dense();
  }
  PruneCounters* counters_of(std::size_t linear) const { return counters_.as<PruneCounters>() + linear; }

  void copy_dense() {
    if (!run_.aligned || std::exchange(pruned_is_copy_, true)) return;
    writer_.wait_read(pruned_slots_.size() > 1);
    pruned().copy_from(dense(), stream_);
  }

  DeviceStats* start_stats(LinearInput input, const StatNeeds& needs, const Moments& moments, bool residual) {
    const auto i = static_cast<std::size_t>(input);
    const auto& weights = dense().layout().weights;
    const auto reads = std::find_if(weights.begin(), weights.end(),
                                    [&](const auto& weight) { return weight.input == input; });
    all_stats_[i].start(reads->cols, needs, moments, residual ? run_.model.config().hidden_size : 0);
    return stats_[i] = &all_stats_[i];
  }

  void finish_stats(LinearInput input) {
    DeviceStats* stats = stats_[static_cast<std::size_t>(input)];
    if (stats == nullptr) return;
    stats->combine(products_, *scratch_);
    stats->finish(fmt::format("block {}, {}", layer_, name_of(input)));
  }

  // Everything on the device but the weights, sized once for all blocks.
  void make_room_for_linears() {
    LinearSizes sizes;
    std::size_t linears = 0;
    bool refines = false;
    for (const BlockConfig& block : run_.model.config().blocks)
      linears = std::max(linears, linears_of(block).size());
    for (const PlanEntry& entry : run_.plan.entries) {
      if (!entry.prune) continue;
      sizes.rows = std::max(sizes.rows, entry.rows);
      sizes.cols = std::max(sizes.cols, entry.cols);
      sizes.numel = std::max(sizes.numel, entry.rows * entry.cols);
      refines |= !entry.refine.is_none();
    }
    counters_ = DeviceBuffer(memory_, linears * sizeof(PruneCounters), "counters");
    host_counters_ = PinnedBuffer(counters_.bytes());
    // One of each for every linear of a block: they are selected side by side.
    selector_.emplace(memory_, products_, run_.plan, linears, sizes, stream_);
    if (refines) {
      refiner_.emplace(memory_, products_, selector_->matrix_select(), run_.plan, sizes, compute_, stream_);
    }
    if (run_.calibrated) errors_.emplace(memory_, products_, run_.model, stream_);
  }

  void make_room_for_windows() {
    const std::int64_t hidden = run_.model.config().hidden_size;
    make_room_for_moments(hidden);
    std::int64_t widest = hidden;
    for (const PlanEntry& entry : run_.plan.entries) widest = std::max(widest, entry.cols);
    for (int i = 0; i < kNumLinearInputs; ++i)
      all_stats_.emplace_back(memory_, widest, stream_, shared_ ? &*shared_ : nullptr);
    if (shared_) make_room_for_held(widest, hidden);
    const std::int64_t rows = rows_per_pass(run_.windows);
    scratch_.emplace(memory_, compute_, rows, widest, run_.aligned ? widest : 0, run_.aligned ? hidden : 0);
    forward_.emplace(memory_, products_, run_.model, rows, run_.windows.seqlen, compute_, stream_);
    if (run_.row_budgets) {
      effects_.emplace(memory_, products_, *forward_, run_.model,
                       run_.options.readers.empty() ? measured_readers() : run_.options.readers, stream_);
    }
    ops_.emplace(memory_, products_, *forward_, *scratch_, run_.model, windows_, stream_);
    if (!run_.aligned) {
      one_.emplace(*ops_);
      if (run_.options.propagation == Propagation::kPruned) ops_->make_room_for_look();
      return;
    }
    pruned_slots_.emplace_back(memory_, run_.model, compute_);
    ops_->make_room_for_inner();
    two_.emplace(*ops_);
    // A second one where there is room: a block's tensors leave the device while the next computes.
    if (memory_.limit() - memory_.used() > kRoomForSecondSlot * pruned_slots_.front().bytes())
      pruned_slots_.emplace_back(memory_, run_.model, compute_);
  }

  // Inputs of this rank's windows that wait for the sums of those before (Moments).
  void make_room_for_held(std::int64_t widest, std::int64_t hidden) {
    const std::int64_t rows = windows_.num_windows() * windows_.seqlen;
    const auto matrix = [&](std::int64_t cols, DType dtype) {
      return DeviceBuffer(memory_, static_cast<std::uint64_t>(rows * cols * size_of(dtype)),
                          "inputs that wait for other ranks");
    };
    if (run_.aligned) {
      moments_[0].held_x = matrix(widest, compute_);
      moments_[0].held_dense = matrix(widest, compute_);
      moments_[0].held_error = matrix(hidden, compute_);
      return;
    }
    for (const PlanEntry& entry : run_.plan.entries) {
      DeviceBuffer& held = moments_[static_cast<std::size_t>(entry.input)].held_x;
      if (stat_needs(entry).any() && held.data() == nullptr) held = matrix(entry.cols, compute_);
    }
  }

  // With two streams one input is in hand at a time and all share the memory; else all four collect together.
  void make_room_for_moments(std::int64_t hidden) {
    std::array<std::int64_t, kNumLinearInputs> sizes{};
    bool alignment = false;
    for (const PlanEntry& entry : run_.plan.entries) {
      const StatNeeds needs = stat_needs(entry);
      alignment |= needs.alignment;
      auto& size = sizes[static_cast<std::size_t>(entry.input)];
      if (needs.gram) size = std::max(size, entry.cols);
    }
    const std::int64_t largest = *std::max_element(sizes.begin(), sizes.end());
    if (largest == 0) return;
    const auto matrix = [&](std::int64_t rows, std::int64_t cols, std::string_view what) {
      return DeviceBuffer(memory_, static_cast<std::uint64_t>(rows * cols) * sizeof(float), what);
    };
    for (std::size_t i = 0; i < (run_.aligned ? 1 : sizes.size()); ++i) {
      const std::int64_t n = run_.aligned ? largest : sizes[i];
      moments_[i].gram = matrix(n, n, "Gram matrices");
    }
    if (alignment) moments_[0].cross = matrix(largest, largest, "cross moments");
    if (run_.aligned) moments_[0].residual = matrix(hidden, largest, "residual moments");
  }

  // A pass over all blocks' weights.
  std::vector<RowEffects::Readers> measured_readers() {
    ColumnEnergies columns(memory_, run_.model, stream_);
    BlockSlots slots(memory_, run_.model, compute_, device_, stream_);
    std::vector<RowEffects::Readers> readers;
    const std::int64_t layers = run_.model.config().num_layers();
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      check_interrupt();
      slots.load(layer, layer + 1 < layers ? layer + 1 : -1);
      readers.push_back(columns.readers_of(slots.block()));  // waits for the device
    }
    return readers;
  }

  // The weight itself, or what was computed from it.
  [[noreturn]] void fail_not_finite(const BlockLayout::Weight& weight) const {
    check_finite(run_.model.checkpoint().load_matrix(weight.tensor, weight.rows, weight.cols).view(),
                 weight.tensor);
    bad_input(
        "tensor '{}': its scores or refined weights are not finite, expected finite ones; try --compute f32; "
        "nothing was written",
        weight.tensor);
  }

  const PruneRun& run_;
  const int device_;
  DeviceMemory memory_;
  Stream stream_;
  const DType compute_;
  Communicator& ranks_;
  const Share share_;           // of the windows
  const TokenWindows windows_;  // this rank's
  Products products_;
  BlockSlots slots_;
  std::vector<BlockWeights> pruned_slots_;  // of an aligned run: one or two
  bool pruned_is_copy_ = false;
  std::int64_t layer_ = -1;
  std::optional<StatisticsRanks> shared_;                  // with several ranks
  std::vector<std::int64_t> loads_;                        // rows of the input in hand that each rank refines
  std::vector<bool> refined_here_;                         // by linear of the block
  std::vector<std::optional<QuantizedWeight>> quantized_;  // by linear; those on a grid
  std::array<Moments, kNumLinearInputs> moments_;
  std::vector<DeviceStats> all_stats_;                  // by LinearInput; empty without calibration
  std::array<DeviceStats*, kNumLinearInputs> stats_{};  // those that hold the block's inputs
  DeviceStats* input_stats_ = nullptr;                  // of the input in hand
  std::optional<StatisticsScratch> scratch_;
  std::optional<BlockForward> forward_;
  std::optional<DeviceStreamOps> ops_;
  std::optional<WholeStream<DeviceStreamOps>> one_;
  std::optional<TwoStreams<DeviceStreamOps>> two_;
  Lanes lanes_;
  std::optional<DeviceSelector> selector_;
  std::optional<DeviceRefiner> refiner_;
  bool refiner_is_ready_ = false;            // prepared for the input in hand
  std::optional<DeviceRowEffects> effects_;  // where the plan has row budgets
  std::optional<OutputErrors> errors_;       // with calibration
  DeviceBuffer counters_;                    // PruneCounters by linear
  PinnedBuffer host_counters_;
  Event linears_ended_;
  std::vector<std::optional<double>> damping_;  // raised ones, by linear
  TensorWriter writer_;                         // last: its threads read what is above
};

}  // namespace

PruneShopMaker prune_shop(const GpuOptions& device) {
  return [device](const PruneRun& run) {
    check(cudaSetDevice(device.index));
    return std::make_unique<CudaPruneShop>(run, device);
  };
}

}  // namespace swiftprune::cuda
