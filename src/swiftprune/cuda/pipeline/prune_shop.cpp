// pipeline/drivers/prune_shop.h on the device: blocks stream from the mapped files to the device, pruned
// tensors back, while others compute.
#include "swiftprune/pipeline/drivers/prune_shop.h"
#include "swiftprune/cuda/selection/selection_kernels.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <string>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/cuda/pipeline/block_slots.h"
#include "swiftprune/cuda/pipeline/input_statistics.h"
#include "swiftprune/cuda/pipeline/linears_in_hand.h"
#include "swiftprune/cuda/pipeline/output_errors.h"
#include "swiftprune/cuda/pipeline/refined_rows.h"
#include "swiftprune/cuda/pipeline/row_effects.h"
#include "swiftprune/cuda/pipeline/stream_ops.h"
#include "swiftprune/cuda/refinement/refiner.h"
#include "swiftprune/cuda/selection/selector.h"
#include "swiftprune/cuda/stages.h"
#include "swiftprune/model/observed_linear.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/pipeline/streams/expert_stream.h"
#include "swiftprune/pipeline/streams/rank_windows.h"
#include "swiftprune/pipeline/streams/two_streams.h"
#include "swiftprune/pipeline/streams/whole_stream.h"

namespace swiftprune::cuda {
namespace {

// What else may be allocated while blocks run is small beside a block.
constexpr std::uint64_t kRoomForSecondSlot = 3;
class CudaPruneShop final : public PruneShop {
 public:
  CudaPruneShop(const PruneRun& run, const GpuOptions& device)
      : run_(run),
        device_(device.index),
        memory_(device.memory_bytes),
        compute_(run.options.compute == ComputeType::kBF16 ? DType::kBF16 : DType::kF32),
        ranks_(*run.options.ranks),
        share_(rank_windows(run.model.config(), run.windows, ranks_, kTokensPerPass)),
        windows_(windows_of_rank(run.windows, share_)),
        products_(memory_, stream_),
        slots_(memory_, run.model, compute_, device_, stream_),
        writer_(run.output, device_) {
    if (ranks_.size() > 1) shared_.emplace(ranks_, run.windows, share_.first, spans_);
    rows_.emplace(ranks_, shared());
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
    linears_->start_block(dense(), pruned());
    damping_.assign(linears_->size(), std::nullopt);
    refined_here_.assign(damping_.size(), false);
    quantized_.assign(damping_.size(), std::nullopt);
    pruned_is_copy_ = false;
  }

  void load_finished(const FinishedBlock& finished) override {
    copy_dense();
    BlockWeights& block = pruned();
    const auto read = [&](const BlockLayout::Weight& weight) {
      std::vector<float> values(static_cast<std::size_t>(weight.rows * weight.cols));
      if (ranks_.is_first()) run_.output.read(weight.tensor, values);
      ranks_.broadcast(0, std::as_writable_bytes(std::span(values)));
      std::vector<std::byte> bytes(weight.bytes());
      convert_from_f32(values, weight.dtype, bytes);
      check(cudaMemcpyAsync(block.data() + weight.offset, bytes.data(), bytes.size(), cudaMemcpyHostToDevice,
                            stream_));
      stream_.synchronize();  // `bytes` lives until here
    };
    std::set<std::string_view> names;
    for (const TensorResult& tensor : finished.tensors) names.insert(tensor.name);
    for (const BlockLayout::Weight& weight : block.layout().weights) {
      if (names.contains(weight.tensor)) read(weight);
    }
    block.refresh(stream_);
    if (!block.config().experts) return;
    const ExpertsConfig& experts = *block.config().experts;
    for (std::int64_t e = 0; e < experts.count; ++e) {
      for (const ExpertPart part : parts_of(experts)) {
        const LinearTensors linear = expert_linear(experts, run_.model.config().hidden_size, e, part);
        const BlockLayout::Weight weight{
            linear.name + ".weight", compute_,      linear.input,
            linear.outputs,          linear.inputs, block.expert_offset(e, part)};
        if (names.contains(weight.tensor)) read(weight);
      }
    }
  }

  bool norms_output(LinearInput output) const override {
    return BlockForward::norms_output(slots_.block(), output);
  }

  void look(const NeedsOfInputs& needs, bool passes) override {
    WholeStream<DeviceStreamOps>::StatsOfInputs stats{};
    for (std::size_t i = 0; i < needs.size(); ++i) {
      if (needs[i].any()) stats[i] = start_stats(static_cast<LinearInput>(i), needs[i], false);
    }
    const StreamSpans::Span span(spans_, stream_, "forward", "gpu", layer_);
    passes ? one_->pass(dense(), stats) : one_->look(dense(), stats);
    for (std::size_t i = 0; i < needs.size(); ++i) finish_stats(static_cast<LinearInput>(i));
  }

  void start_block() override {
    copy_dense();
    two_->start_block(dense(), pruned());
  }

  void collect(LinearInput input, const StatNeeds* needs, bool residual) override {
    DeviceStats* stats = needs != nullptr ? start_stats(input, *needs, residual) : nullptr;
    const StreamSpans::Span span(spans_, stream_, "forward", "gpu", layer_);
    if (!dense().config().experts || input != LinearInput::kMlpOutput) {
      two_->collect(input, stats);
    } else if (stats != nullptr) {
      experts_->collect_shared(*stats, pruned(), two_->hidden(), dense(), two_->dense_hidden());
    }
    finish_stats(input);
  }

  std::vector<std::int64_t> start_experts(bool passes) override {
    experts_pass_ = passes;
    if (!run_.calibrated) return {};
    const Stopwatch watch(run_.seconds.calibrate);
    if (!run_.aligned) {
      pruned().refresh(stream_);
      experts_->pass_attention(pruned(), one_->hidden());
    }
    experts_->start(pruned(), run_.aligned ? two_->hidden() : one_->hidden(), passes);
    if (run_.aligned) experts_->start_beside(dense(), two_->dense_hidden());
    std::vector<std::int64_t> tokens = experts_->num_tokens();
    add_counts(ranks_, tokens);
    return tokens;
  }

  void start_expert(std::int64_t expert, const NeedsOfInputs& needs, bool pooled) override {
    check_interrupt();
    if (held().wraps()) writer_.wait_read();
    held().take(dense(), expert);
    if (!run_.calibrated) return;
    const Stopwatch watch(run_.seconds.calibrate);
    std::array<DeviceStats*, kExpertInputs.size()> wanted{};
    bool by_window = false;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const auto input = static_cast<std::size_t>(kExpertInputs[i]);
      if (needs[input].any()) wanted[i] = start_stats(kExpertInputs[i], needs[input], false);
      by_window |= needs[input].ewma_energy;
    }
    const DeviceExpert as_it_is{&dense(), expert};
    experts_->collect({expert, pooled, by_window}, as_it_is, wanted[0], wanted[1]);
    for (const LinearInput input : kExpertInputs) finish_stats(input);
    if (experts_pass_ && !sees_pruned()) experts_->add_outputs(expert, as_it_is);
  }

  void collect_expert(LinearInput input, const StatNeeds& needs, bool pooled) override {
    const Stopwatch watch(run_.seconds.calibrate);
    DeviceStats& stats = *start_stats(input, needs, false);
    experts_->collect_aligned({held().expert(), pooled, needs.ewma_energy}, {&pruned(), held().expert()},
                              input, stats);
    finish_stats(input);
  }

  void end_expert() override {
    if (run_.calibrated && experts_pass_ && sees_pruned()) {
      const Stopwatch watch(run_.seconds.calibrate);
      experts_->add_outputs(held().expert(), {&pruned(), held().expert()});
    }
    held().drop();
  }

  void end_experts() override {
    if (!run_.calibrated) return;
    const Stopwatch watch(run_.seconds.calibrate);
    experts_->finish();
    if (run_.aligned) two_->leave_block();
  }

  void start_input(LinearInput input) override {
    if (statistics_) statistics_->take(input);
    refiner_is_ready_ = false;
    rows_->start_input();
    selector_->start_input();
    lanes_.fork(stream_);
  }

  std::vector<std::vector<float>> row_effects(LinearInput input) override {
    expect(effects_ && stats_in_hand() != nullptr, "row budgets: effects and statistics");
    return effects_->of(dense(), layer_, input, *stats_in_hand());
  }

  std::vector<std::int64_t> threshold_counts(std::size_t linear, std::span<const float> effects,
                                             const PruneTarget& target) override {
    const DeviceView weight = dense().weight(linear);
    const DeviceStats* stats = stats_for(linear);
    expect(stats != nullptr, "row budgets: statistics of the input");
    return selector_->threshold_counts(weight, stats->view().energy, effects,
                                       total_prune_count(target, weight.rows, weight.cols));
  }

  void select(std::size_t linear, const PlanEntry& entry, const PruneTarget& target,
              bool masks_only) override {
    const cudaStream_t lane = DeviceSelector::is_independent(entry) ? lanes_.next() : stream_;
    select_into(linear, entry, target, masks_only, place_of(linear), lane);
  }

  void refine(std::size_t linear, const PlanEntry& entry, const PruneTarget& target) override {
    const StreamSpans::Span span(spans_, stream_, "refine", "gpu", layer_);
    const Place place = place_of(linear);
    if (entry.grid) {
      quantized_[linear] = refine_into(linear, entry, target, place, {});
    } else {
      const auto parts = rows_->shared_out(entry, target, place.weight.rows);
      refine_into(linear, entry, target, place, parts);
      rows_->share(parts, place.weight, stream_);
    }
    damping_[linear] = refiner_->raised_damping();
    refined_here_[linear] = !entry.grid;
  }

  // On the main stream, and done when it returns: the linear's own selection may follow on another one.
  Aside solve_aside(std::size_t linear, const PlanEntry& entry, const PruneTarget& target) override {
    expect(aside_.data() != nullptr, "solve_aside: room");
    const DeviceView weight = dense().weight(linear);
    auto* counters = reinterpret_cast<PruneCounters*>(aside_counters_.data());
    const Place place{view_of(aside_.data(), weight.dtype, weight.rows, weight.cols), counters};
    check(cudaMemsetAsync(counters, 0, sizeof(PruneCounters), stream_));
    if (entry.refine.facts().uses_mask)
      select_into(linear, entry, target, !entry.refine.is_none(), place, stream_);
    if (!entry.refine.is_none())
      refine_into(linear, entry, target, place, rows_->own(entry, target, weight.rows));
    if (const DeviceStats* stats = errors_ ? stats_for(linear) : nullptr) {
      errors_->measure(linear, place.weight, *stats, prepared_refiner(*stats));
      errors_->download();
    }
    const auto bytes = static_cast<std::size_t>(weight.numel() * size_of(weight.dtype));
    check(cudaMemcpyAsync(host_aside_.data(), aside_.data(), bytes, cudaMemcpyDeviceToHost, stream_));
    PruneCounters counted;
    check(cudaMemcpyAsync(&counted, counters, sizeof(counted), cudaMemcpyDeviceToHost, stream_));
    wait();
    if (counted.not_finite != 0) fail_not_finite(linear);
    Aside solved{Matrix(weight.rows, weight.cols), {}};
    convert_to_f32({host_aside_.data(), bytes}, weight.dtype, solved.weight.values());
    solved.outcome.zeros = total_zeros(counted);
    if (errors_) solved.outcome.error = errors_->error(linear);
    if (refiner_is_ready_) solved.outcome.damping = refiner_->raised_damping();
    return solved;
  }

  void end_input(LinearInput input) override {
    lanes_.join(stream_);
    if (shared_) shared_->hold(stream_);
    for (const std::size_t i : errors_ ? linears_->readers(input) : std::vector<std::size_t>{}) {
      if (const DeviceStats* stats = stats_for(i))
        errors_->measure(i, place_of(i).weight, *stats, prepared_refiner(*stats));
    }
    if (linears_->expert_in_hand()) {
      if (sees_pruned()) linears_->put_expert(input);
    } else if (run_.aligned) {
      pruned().refresh(input, stream_);
    }
    if (statistics_) statistics_->drop(input);
  }

  void end_linears() override {
    if (shared_) combine_counters();
    check(cudaMemcpyAsync(host_counters_.data(), counters_.data(), counters_.bytes(), cudaMemcpyDeviceToHost,
                          stream_));
    if (errors_) errors_->download();
    linears_ended_.record(stream_);
  }

  void pass() override {
    const StreamSpans::Span span(spans_, stream_, "forward", "gpu", layer_);
    if (run_.aligned) return two_->finish_block();
    pruned().refresh(stream_);
    one_->pass(pruned());
  }

  std::vector<LinearOutcome> outcomes() override {
    {
      const Stopwatch watch(refiner_ ? run_.seconds.refine : run_.seconds.select);
      linears_ended_.synchronize();
    }
    const auto* counters = reinterpret_cast<const PruneCounters*>(host_counters_.data());
    std::vector<LinearOutcome> outcomes(linears_->size());
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      if (counters[i].not_finite != 0) fail_not_finite(i);
      outcomes[i].zeros = total_zeros(counters[i]);
      if (errors_) outcomes[i].error = errors_->error(i);
      outcomes[i].damping = damping_[i];
    }
    return outcomes;
  }

  void write(std::size_t linear) override {
    const std::string tensor = linears_->tensor(linear);
    if (quantized_[linear] && run_.output.keeps_grids()) {
      auto weight = std::make_shared<const QuantizedWeight>(std::move(*quantized_[linear]));
      writer_.run([this, tensor, weight] { run_.output.write_quantized(tensor, *weight); });
    } else {
      if (linears_->is_of_expert(linear)) wait();  // written before outcomes() waits
      writer_.write(tensor, place_of(linear).weight);
    }
    quantized_[linear].reset();
  }

  void end_block(FinishedBlock block) override {
    writer_.end_block([this, block = std::move(block)] { run_.output.finish(block); });
  }

  void finish() override {
    writer_.finish();
    stream_.synchronize();
    spans_.collect();
    run_.seconds.load = slots_.busy_seconds();
    run_.seconds.write = writer_.busy_seconds();
  }

 private:
  // Where a pruned weight goes, and what is counted of it.
  struct Place {
    DeviceView weight;
    PruneCounters* counters = nullptr;
  };

  static constexpr std::array kExpertInputs = {LinearInput::kMlp, LinearInput::kMlpOutput};

  Place place_of(std::size_t linear) const { return {linears_->pruned(linear), counters_of(linear)}; }
  HeldExpert& held() { return *linears_->held(); }
  // Do the windows pass what is pruned?
  bool sees_pruned() const { return run_.aligned || run_.options.propagation == Propagation::kPruned; }
  static std::int64_t total_zeros(const PruneCounters& counters) {
    return static_cast<std::int64_t>(
        std::accumulate(std::begin(counters.zeros), std::end(counters.zeros), 0ULL));
  }

  // Where one stands ready for the input in hand and its Gram matrix.
  DeviceRefiner* prepared_refiner(const DeviceStats& stats) {
    return refiner_is_ready_ && stats.gram() != nullptr ? &*refiner_ : nullptr;
  }

  const DeviceStats* stats_in_hand() const { return statistics_ ? statistics_->in_hand() : nullptr; }
  // What a linear knows of its input: all that was seen, or the part that it reads; null where nothing was.
  const DeviceStats* stats_for(std::size_t linear) {
    if (stats_in_hand() == nullptr || linears_->expert_in_hand()) return stats_in_hand();
    const LinearTensors of = linears_of(dense().config())[linear];
    if (!is_observed(of, run_.model.config().hidden_size)) return nullptr;
    const InputStatistics::Read read = statistics_->read_by(of);
    if (read.is_new) {
      selector_->start_input();
      refiner_is_ready_ = false;
    }
    return read.stats;
  }

  void select_into(std::size_t linear, const PlanEntry& entry, const PruneTarget& target, bool masks_only,
                   const Place& place, cudaStream_t lane) {
    const DeviceView weight = linears_->dense(linear);
    const std::size_t slot = linears_->slot(linear);
    const DeviceStats* stats = stats_for(linear);
    if (errors_ && stats != nullptr) errors_->keep(linear, slot, weight, lane);
    DeviceSelector::Scored scored;
    {
      const Stopwatch watch(run_.seconds.score);
      scored = selector_->score(weight, slot, entry, stats, lane);
    }
    const Stopwatch watch(run_.seconds.select);
    if (masks_only) {
      selector_->select_mask(scored, weight, slot, target, place.counters);
    } else {
      selector_->select(scored, weight, slot, target, place.weight, nullptr, place.counters, lane);
    }
  }

  // Those of the parts that are this rank's; a weight on a grid whole. Returns the codes of the latter.
  std::optional<QuantizedWeight> refine_into(std::size_t linear, const PlanEntry& entry,
                                             const PruneTarget& target, const Place& place,
                                             std::span<const RefinedRows::Part> parts) {
    const Stopwatch watch(run_.seconds.refine);
    const DeviceView weight = linears_->dense(linear);
    const DeviceStats* stats = stats_for(linear);
    if (errors_ && stats != nullptr) errors_->keep(linear, linears_->slot(linear), weight, stream_);
    if (!std::exchange(refiner_is_ready_, true)) {
      refiner_->prepare(entry.refine, stats, statistics_ ? statistics_->cross() : nullptr, entry.tensor);
    }
    if (entry.grid) {
      return refiner_->refine_on_grid(weight, selector_->mask(), target, *entry.grid, place.weight,
                                      place.counters);
    }
    for (const RefinedRows::Part& part : parts) {
      if (!rows_->is_own(part)) continue;
      PruneTarget rows = target;
      if (!rows.row_counts.empty()) {
        rows.row_counts = rows.row_counts.subspan(static_cast<std::size_t>(part.first),
                                                  static_cast<std::size_t>(part.count));
      }
      std::uint8_t* mask = selector_->mask();
      refiner_->refine(weight.row_block(part.first, part.count),
                       mask != nullptr ? mask + part.first * weight.cols : nullptr, rows,
                       place.weight.row_block(part.first, part.count), place.counters, part.first);
    }
    return std::nullopt;
  }

  // With several ranks no wait is without an end.
  void wait() { shared_ ? shared_->link().wait(stream_) : stream_.synchronize(); }

  // What is refined by parts is counted where that happens, everything else by all ranks alike.
  void combine_counters() {
    for (std::size_t i = 0; i < refined_here_.size() && !ranks_.is_first(); ++i) {
      if (!refined_here_[i]) check(cudaMemsetAsync(counters_of(i), 0, sizeof(PruneCounters), stream_));
    }
    static_assert(sizeof(PruneCounters) % sizeof(std::uint64_t) == 0);
    shared_->link().sum(counters_.data(),
                        static_cast<std::int64_t>(counters_.bytes() / sizeof(std::uint64_t)), stream_);
    shared_->link().wait(stream_);
  }

  StatisticsRanks* shared() { return shared_ ? &*shared_ : nullptr; }  // null for one rank
  bool has_experts() const { return run_.model.config().has_experts(); }
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

  DeviceStats* start_stats(LinearInput input, const StatNeeds& needs, bool residual) {
    const ModelConfig& model = run_.model.config();
    const BlockConfig& block = dense().config();
    const std::int64_t inputs = linears_->expert_in_hand() ? linears_->expert_inputs(input)
                                                           : observed_width(block, input, model.hidden_size);
    return statistics_->start(input, inputs, needs, residual ? model.hidden_size : 0,
                              residual ? 1.0f / output_factor(model, block, input) : 1.0f);
  }

  void finish_stats(LinearInput input) {
    DeviceStats* stats = statistics_->of(input);
    if (stats == nullptr) return;
    stats->combine(products_, *scratch_);
    const std::string expert = linears_->expert_in_hand() ? fmt::format(", expert {}", held().expert()) : "";
    stats->finish(fmt::format("block {}{}, {}", layer_, expert, name_of(input)));
  }

  // Everything on the device but the weights, sized once for all blocks.
  void make_room_for_linears() {
    linears_.emplace(memory_, run_.model, run_.plan, stream_);
    LinearSizes sizes;
    bool refines = false;
    for (const PlanEntry& entry : run_.plan.entries) {
      if (!entry.prune) continue;
      sizes.rows = std::max(sizes.rows, entry.rows);
      sizes.cols = std::max(sizes.cols, entry.cols);
      sizes.numel = std::max(sizes.numel, entry.rows * entry.cols);
      refines |= !entry.refine.is_none();
    }
    counters_ = DeviceBuffer(memory_, linears_->most() * sizeof(PruneCounters), "counters");
    host_counters_ = PinnedBuffer(counters_.bytes());
    // One of each for every linear of a block: they are selected side by side.
    selector_.emplace(memory_, products_, run_.plan, linears_->num_slots(), sizes, stream_);
    if (refines) {
      refiner_.emplace(memory_, products_, selector_->matrix_select(), run_.plan, sizes, compute_, stream_);
    }
    if (run_.calibrated) errors_.emplace(memory_, products_, run_.model, stream_);
    if (run_.options.levels != nullptr) make_room_for_aside();
  }

  // The largest weight in its dtype.
  void make_room_for_aside() {
    std::uint64_t bytes = 0;
    for (const PlanEntry& entry : run_.plan.entries) {
      const DType dtype = run_.model.checkpoint().at(entry.tensor).dtype;
      bytes = std::max(bytes, static_cast<std::uint64_t>(entry.rows * entry.cols * size_of(dtype)));
    }
    aside_ = DeviceBuffer(memory_, bytes, "levels beside the plan's own");
    host_aside_ = PinnedBuffer(bytes);
    aside_counters_ = DeviceBuffer(memory_, sizeof(PruneCounters), "counters");
  }

  void make_room_for_windows() {
    const std::int64_t hidden = run_.model.config().hidden_size;
    std::int64_t widest = widest_input(run_.model.config());
    for (const PlanEntry& entry : run_.plan.entries) widest = std::max(widest, entry.cols);
    statistics_.emplace(memory_, run_, windows_, compute_, widest, stream_, shared());
    const std::int64_t rows = rows_per_pass(run_.windows);
    scratch_.emplace(memory_, compute_, rows, widest, run_.aligned ? widest : 0, run_.aligned ? hidden : 0);
    forward_.emplace(memory_, products_, run_.model, rows, run_.windows.seqlen, compute_, stream_);
    if (run_.row_budgets) {
      effects_.emplace(memory_, products_, *forward_, run_.model,
                       run_.options.readers.empty() ? measured_readers() : run_.options.readers, stream_);
    }
    ops_.emplace(memory_, products_, *forward_, *scratch_, run_.model, windows_, stream_);
    if (has_experts()) {
      ops_->make_room_for_experts();
      experts_.emplace(*ops_, windows_, expert_part_ends(run_.windows, share_, kTokensPerPass));
    }
    if (!run_.aligned) {
      one_.emplace(*ops_);
      if (run_.options.propagation == Propagation::kPruned || has_experts()) ops_->make_room_for_look();
      return;
    }
    pruned_slots_.emplace_back(memory_, run_.model, compute_);
    ops_->make_room_for_inner();
    two_.emplace(*ops_);
    // A second one where there is room: a block's tensors leave the device while the next computes.
    if (memory_.limit() - memory_.used() > kRoomForSecondSlot * pruned_slots_.front().bytes())
      pruned_slots_.emplace_back(memory_, run_.model, compute_);
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
  [[noreturn]] void fail_not_finite(std::size_t linear) {
    const std::string tensor = linears_->tensor(linear);
    const StoredWeights stored(run_.model.checkpoint());
    const StoredWeights::Info info = stored.info(tensor);
    Matrix weight(info.rows, info.cols);
    convert_to_f32(stored.bytes(tensor), info.dtype, weight.values());
    check_finite(std::as_const(weight).view(), tensor);
    bad_input(
        "tensor '{}': its scores or refined weights are not finite, expected finite ones; try --compute f32; "
        "nothing was written",
        tensor);
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
  std::optional<LinearsInHand> linears_;
  bool experts_pass_ = false;
  StreamSpans spans_;
  std::optional<StatisticsRanks> shared_;  // with several ranks
  std::optional<RefinedRows> rows_;
  std::vector<bool> refined_here_;                         // by linear of the block
  std::vector<std::optional<QuantizedWeight>> quantized_;  // by linear; those on a grid
  std::optional<InputStatistics> statistics_;              // with calibration
  std::optional<StatisticsScratch> scratch_;
  std::optional<BlockForward> forward_;
  std::optional<DeviceStreamOps> ops_;
  std::optional<WholeStream<DeviceStreamOps>> one_;
  std::optional<TwoStreams<DeviceStreamOps>> two_;
  std::optional<ExpertStream<DeviceStreamOps>> experts_;
  Lanes lanes_;
  std::optional<DeviceSelector> selector_;
  std::optional<DeviceRefiner> refiner_;
  bool refiner_is_ready_ = false;            // prepared for the input in hand
  std::optional<DeviceRowEffects> effects_;  // where the plan has row budgets
  std::optional<OutputErrors> errors_;       // with calibration
  DeviceBuffer counters_;                    // PruneCounters by linear
  PinnedBuffer host_counters_;
  DeviceBuffer aside_, aside_counters_;  // of solve_aside()
  PinnedBuffer host_aside_;
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
