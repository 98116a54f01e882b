// pipeline/drivers/shrink_shop.h on the device: blocks stream from the mapped files to the device, what is
// left of them goes back while others compute.
#include "swiftprune/pipeline/drivers/shrink_shop.h"
#include "swiftprune/cuda/structure/structure_kernels.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <optional>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/cuda/pipeline/block_slots.h"
#include "swiftprune/cuda/pipeline/stream_ops.h"
#include "swiftprune/cuda/stages.h"
#include "swiftprune/cuda/structure/unit_scores.h"
#include "swiftprune/model/observed_linear.h"
#include "swiftprune/pipeline/block_edits.h"
#include "swiftprune/pipeline/streams/one_stream.h"
#include "swiftprune/pipeline/streams/rank_windows.h"
#include "swiftprune/pipeline/streams/two_streams.h"

namespace swiftprune::cuda {
namespace {

constexpr std::uint64_t kRoomForSecondSlot = 3;  // what else may be allocated is small beside a block

std::uint64_t floats(std::int64_t n) { return static_cast<std::uint64_t>(n) * sizeof(float); }

class CudaShrinkShop final : public ShrinkShop {
 public:
  CudaShrinkShop(const ShrinkRun& run, const GpuOptions& device)
      : run_(run),
        memory_(device.memory_bytes),
        compute_(run.options.compute == ComputeType::kBF16 ? DType::kBF16 : DType::kF32),
        ranks_(*run.options.ranks),
        share_(rank_windows(run.model.config(), run.windows, ranks_, kTokensPerPass)),
        windows_(windows_of_rank(run.windows, share_)),
        products_(memory_, stream_),
        slots_(memory_, run.model, compute_, device.index, stream_),
        writer_(run.output, device.index) {
    if (ranks_.size() > 1) shared_.emplace(ranks_, run.windows, share_.first, spans_);
    for (BlockWeights& slot : slots_.slots()) reserve_biases(slot);
    slots_.prefetch(run.layers.front());
    make_room();
  }

  void load(std::int64_t layer) override {
    const auto next = std::upper_bound(run_.layers.begin(), run_.layers.end(), layer);
    slots_.load(layer, next != run_.layers.end() ? *next : -1);
    if (run_.aligned()) block().copy_from(slots_.block(), stream_);
    biases_.clear();
    layer_ = layer;
  }

  void silence() override {
    block().silence(stream_);
    block().refresh(stream_);
  }

  bool norms_output(LinearInput output) const override {
    return BlockForward::norms_output(slots_.block(), output);
  }
  bool has_bias(LinearInput output) const override { return slots_.block().bias(output) != nullptr; }

  void start_block() override {
    run_.aligned() ? two_->start_block(slots_.block(), block()) : one_->start_block(block());
  }

  void collect(LinearInput input, const StatNeeds* needs, bool residual) override {
    if (needs != nullptr) {
      StatNeeds wanted = *needs;
      wanted.energy = true;
      const ModelConfig& model = run_.model.config();
      stats_->start(observed_width(block().config(), input, model.hidden_size), wanted, moments_,
                    residual ? model.hidden_size : 0,
                    residual ? 1.0f / output_factor(model, block().config(), input) : 1.0f);
    }
    DeviceStats* stats = needs != nullptr ? &*stats_ : nullptr;
    const StreamSpans::Span span(spans_, stream_, "forward", "gpu", layer_);
    run_.aligned() ? two_->collect(input, stats) : one_->collect(input, stats);
    if (stats == nullptr) return;
    stats->combine(products_, *scratch_);
    stats->finish(fmt::format("block {}, {}", layer_, name_of(input)));
  }

  void refit_readers(LinearInput input, const RefitOptions& options) override {
    std::vector<std::int64_t> all(static_cast<std::size_t>(stats_->inputs()));
    std::iota(all.begin(), all.end(), 0);
    const StreamSpans::Span span(spans_, stream_, "refine", "gpu", layer_);
    bool prepared = false;
    const auto& weights = block().layout().weights;
    const std::vector<int> owners = owners_of_readers(input);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      if (weights[i].input != input || owners[i] != ranks_.rank()) continue;
      if (!std::exchange(prepared, true)) fit_->prepare(*stats_, all, options, weights[i].tensor);
      fit_->solve(block().weight(i));
      fit_->write(block().weight(i));
    }
    if (shared_) share_readers(input, owners);
    changed(input);
  }

  std::vector<double> unit_scores(LinearInput output, std::int64_t num_kept) override {
    return scores_->score(run_.scorer, projection(output), stats_of(output), num_kept);
  }

  void refit_columns(LinearInput output, std::span<const std::int64_t> columns,
                     const RefitOptions& options) override {
    const DeviceView weight = keep_original(output);
    fit_->prepare(stats_of(output), columns, options,
                  block().layout().weights[block().output_projection(output)].tensor);
    fit_->solve(weight);
    fit_->write(weight);
    changed(output);
  }

  void keep_columns(LinearInput output, std::span<const std::int64_t> columns) override {
    const DeviceView weight = keep_original(output);
    columns_->set(columns, weight.cols);
    cuda::keep_columns(columns_->place(), weight.rows, weight.cols, weight.data, weight.dtype, stream_);
    changed(output);
  }

  std::vector<float> mean_error(LinearInput output) override {
    const DeviceView weight = projection(output);
    const LayerStats stats = stats_of(output).view();
    const DeviceBuffer sums = upload(memory_, stats.sum, "means", stream_);
    weighted_differences(original_.data(), weight.data, weight.dtype, weight.rows, weight.cols,
                         sums.as<double>(), sums_.as<double>(), stream_);
    std::vector<double> totals(static_cast<std::size_t>(weight.rows));
    check(cudaMemcpyAsync(totals.data(), sums_.data(), totals.size() * sizeof(double), cudaMemcpyDeviceToHost,
                          stream_));
    stream_.synchronize();
    std::vector<float> error;
    for (const double total : totals)
      error.push_back(static_cast<float>(total / static_cast<double>(stats.num_tokens)));
    return error;
  }

  std::vector<float> bias(LinearInput output) override { return dense_bias(tensors_of(output)); }

  void set_bias(LinearInput output, std::vector<float> bias) override {
    round_to(projection(output).dtype, bias);
    block().set_bias(output, bias, stream_);
    biases_[tensors_of(output).name] = std::move(bias);
  }

  void pass() override { run_.aligned() ? two_->finish_block() : one_->finish_block(); }

  // Weights by way of the device, biases from here.
  void write(const ShrunkBlock& shrunk) override {
    writer_.wait_read(staged_.size() > 1);
    const DeviceBuffer& staged = staged_[num_written_++ % staged_.size()];
    const std::vector<LinearTensors> linears = linears_of(block().config());
    const std::vector<KeptPart> parts = kept_parts(run_.model.config(), block().config(), shrunk.kept);
    std::vector<DeviceView> views;
    std::uint64_t end = 0;
    for (std::size_t i = 0; i < linears.size(); ++i) {
      const DeviceView weight = block().weight(i);
      const auto cols = parts[i].columns.empty() ? weight.cols : std::ssize(parts[i].columns);
      views.push_back(view_of(staged.data() + end, weight.dtype, std::ssize(parts[i].rows), cols));
      gather_into(weight, parts[i], views.back());
      end += static_cast<std::uint64_t>(round_up(views.back().numel() * size_of(weight.dtype), 256));
      write_bias(linears[i], parts[i].rows);
    }
    stream_.synchronize();
    for (std::size_t i = 0; i < linears.size(); ++i) writer_.write(linears[i].name + ".weight", views[i]);
    writer_.end_block([] {});
  }

  void finish() override {
    writer_.finish();
    stream_.synchronize();
    spans_.collect();
    run_.seconds.load = slots_.busy_seconds();
    run_.seconds.write = writer_.busy_seconds();
  }

 private:
  // The block that shrinks: beside the dense one in an aligned run.
  BlockWeights& block() { return run_.aligned() ? *shrunk_slot_ : slots_.block(); }
  DeviceView projection(LinearInput output) { return block().weight(block().output_projection(output)); }
  const LinearTensors& tensors_of(LinearInput output) {
    const BlockConfig& config = block().config();
    return output == LinearInput::kMlpOutput ? config.down : config.attention_output;
  }

  // What the projection knows of its input: all that was seen, or, of two that read a part each, its own.
  const DeviceStats& stats_of(LinearInput output) {
    const LinearTensors& tensors = tensors_of(output);
    if (tensors.inputs == stats_->inputs()) return *stats_;
    part_stats_->take_part(*stats_, tensors.first_input, tensors.inputs, part_moments_);
    return *part_stats_;
  }

  void reserve_biases(BlockWeights& slot) const {
    for (const LinearInput output : run_.added_biases) slot.reserve_bias(output);
  }

  // Everything on the device but the weights, sized once for all blocks.
  void make_room() {
    const ModelConfig& m = run_.model.config();
    std::int64_t cols = widest_input(m), numel = 0, gram = 0;
    for (const BlockConfig& config : m.blocks) {
      for (const LinearTensors& linear : linears_of(config)) {
        cols = std::max(cols, linear.inputs);
        numel = std::max(numel, linear.outputs * linear.inputs);
        if (run_.needs_gram(linear.input))
          gram = std::max(gram, observed_width(config, linear.input, m.hidden_size));
      }
    }
    const std::int64_t hidden = m.hidden_size;
    const auto matrix = [&](std::int64_t rows, std::string_view what) {
      return DeviceBuffer(memory_, floats(rows * gram), what);
    };
    const bool in_parts = std::any_of(m.blocks.begin(), m.blocks.end(),
                                      [](const BlockConfig& config) { return config.beside.has_value(); });
    if (in_parts) part_stats_.emplace(memory_, cols, stream_);
    for (Moments* moments : {&moments_, in_parts ? &part_moments_ : nullptr}) {
      if (moments == nullptr) continue;
      if (gram > 0) moments->gram = matrix(gram, "Gram matrices");
      if (run_.aligned()) moments->cross = matrix(gram, "cross moments");
      if (run_.aligned()) moments->residual = matrix(hidden, "residual moments");
    }
    const bool post_norm = m.blocks.front().post_mlp_norm || m.blocks.front().post_attention_norm;
    const std::int64_t rows = rows_per_pass(run_.windows);
    scratch_.emplace(memory_, compute_, rows, cols, run_.aligned() || post_norm ? cols : 0,
                     run_.aligned() ? hidden : 0);
    stats_.emplace(memory_, cols, stream_, shared_ ? &*shared_ : nullptr);
    if (shared_) make_room_for_held(cols, hidden);
    energies_.emplace(memory_, run_.model, stream_);
    if (gram > 0) fit_.emplace(memory_, products_, *energies_, gram, numel, stream_);
    scores_.emplace(memory_, *energies_, fit_ ? &*fit_ : nullptr, run_.model, stream_);
    columns_.emplace(memory_, cols, stream_);
    original_ = DeviceBuffer(memory_, BlockWeights::max_weight_bytes(run_.model), "a linear");
    sums_ = DeviceBuffer(memory_, static_cast<std::uint64_t>(hidden) * sizeof(double), "means");
    forward_.emplace(memory_, products_, run_.model, rows, run_.windows.seqlen, compute_, stream_);
    ops_.emplace(memory_, products_, *forward_, *scratch_, run_.model, windows_, stream_);
    ops_->make_room_for_inner();
    if (run_.aligned()) {
      reserve_biases(shrunk_slot_.emplace(memory_, run_.model, compute_));
      two_.emplace(*ops_);
    } else {
      one_.emplace(*ops_);
    }
    // A second one where there is room: a block's tensors leave the device while the next computes.
    const std::uint64_t block_bytes = slots_.block().layout().bytes;
    const int num_staged = memory_.limit() - memory_.used() > kRoomForSecondSlot * block_bytes ? 2 : 1;
    for (int i = 0; i < num_staged; ++i)
      staged_.emplace_back(memory_, block_bytes, "the tensors of a smaller block");
  }

  // Two streams, or one whose Gram matrices may count tokens otherwise than the other sums do.
  void make_room_for_held(std::int64_t widest, std::int64_t hidden) {
    const std::int64_t rows = most_held_rows(windows_, false);
    moments_.held_x = room_for_held(memory_, rows, widest, compute_);
    moments_.held_dense = room_for_held(memory_, rows, widest, compute_);
    if (run_.aligned()) moments_.held_error = room_for_held(memory_, rows, hidden, compute_);
  }

  // The rank that refits each of the block's linears that read the input: the one that has least; all find the same.
  std::vector<int> owners_of_readers(LinearInput input) {
    const auto& weights = block().layout().weights;
    std::vector<int> owners(weights.size(), 0);
    std::vector<std::int64_t> loads(static_cast<std::size_t>(ranks_.size()), 0);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      if (weights[i].input != input) continue;
      const auto least = std::min_element(loads.begin(), loads.end());
      *least += weights[i].rows;
      owners[i] = static_cast<int>(least - loads.begin());
    }
    return owners;
  }

  void share_readers(LinearInput input, const std::vector<int>& owners) {
    const auto& weights = block().layout().weights;
    shared_->start(stream_);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      if (weights[i].input != input) continue;
      const DeviceView weight = block().weight(i);
      expect(weight.stride == weight.cols, "ranks: weights that are contiguous");
      shared_->share(weight.data, static_cast<std::uint64_t>(weight.numel() * size_of(weight.dtype)),
                     owners[i]);
    }
    shared_->finish(stream_);
  }

  // For mean_error(), where the projection has a bias to balance.
  DeviceView keep_original(LinearInput output) {
    const DeviceView weight = projection(output);
    if (!run_.aligned() && has_bias(output))
      copy(weight, view_of(original_.data(), weight.dtype, weight.rows, weight.cols), stream_);
    return weight;
  }

  void changed(LinearInput input) {
    block().refresh(input, stream_);
    stream_.synchronize();
  }

  std::vector<float> dense_bias(const LinearTensors& tensors) const {
    if (tensors.bias) return run_.model.checkpoint().load_vector(tensors.name + ".bias", tensors.outputs);
    return std::vector<float>(static_cast<std::size_t>(tensors.outputs), 0.0f);
  }

  void gather_into(DeviceView weight, const KeptPart& part, DeviceView to) {
    if (to.rows == weight.rows && to.cols == weight.cols) return copy(weight, to, stream_);
    const auto narrow = [&](const std::vector<std::int64_t>& indices, std::int64_t all) {
      if (indices.empty() || std::ssize(indices) == all) return DeviceBuffer();
      const std::vector<std::int32_t> values(indices.begin(), indices.end());
      return upload(memory_, std::span(values), "indices", stream_);
    };
    const DeviceBuffer rows = narrow(part.rows, weight.rows), columns = narrow(part.columns, weight.cols);
    gather(weight.data, weight.dtype, weight.cols, rows.as<std::int32_t>(), to.rows,
           columns.as<std::int32_t>(), to.cols, to.data, stream_);
    stream_.synchronize();  // the indices live until here
  }

  void write_bias(const LinearTensors& tensors, const std::vector<std::int64_t>& rows) {
    const auto& added = run_.added_biases;
    if (!tensors.bias && std::count(added.begin(), added.end(), output_of(tensors.input)) == 0) return;
    const auto changed = biases_.find(tensors.name);
    const std::vector<float> all = changed != biases_.end() ? changed->second : dense_bias(tensors);
    std::vector<float> bias;
    for (const std::int64_t row : rows) bias.push_back(all[static_cast<std::size_t>(row)]);
    run_.output.write_bias(tensors.name + ".bias", bias);
  }

  const ShrinkRun& run_;
  DeviceMemory memory_;
  Stream stream_;
  const DType compute_;
  Communicator& ranks_;
  const Share share_;           // of the windows
  const TokenWindows windows_;  // this rank's
  StreamSpans spans_;
  std::optional<StatisticsRanks> shared_;  // with several ranks
  Products products_;
  BlockSlots slots_;
  std::optional<BlockWeights> shrunk_slot_;
  std::int64_t layer_ = -1;
  Moments moments_;  // of the input in hand
  std::optional<StatisticsScratch> scratch_;
  std::optional<DeviceStats> stats_;
  std::optional<DeviceStats> part_stats_;  // of some of an input's columns
  Moments part_moments_;
  std::optional<ColumnEnergies> energies_;
  std::optional<DeviceColumnFit> fit_;
  std::optional<DeviceUnitScores> scores_;
  std::optional<KeptColumns> columns_;
  DeviceBuffer original_;  // an output projection before it changes
  DeviceBuffer sums_;
  std::optional<BlockForward> forward_;
  std::optional<DeviceStreamOps> ops_;
  std::optional<OneStream<DeviceStreamOps>> one_;
  std::optional<TwoStreams<DeviceStreamOps>> two_;
  std::vector<DeviceBuffer> staged_;  // tensors at their new sizes, on their way out
  std::size_t num_written_ = 0;
  std::map<std::string, std::vector<float>> biases_;  // of the block's output projections, where they changed
  TensorWriter writer_;                               // last: its threads read what is above
};

}  // namespace

ShrinkShopMaker shrink_shop(const GpuOptions& device) {
  return [device](const ShrinkRun& run) {
    check(cudaSetDevice(device.index));
    return std::make_unique<CudaShrinkShop>(run, device);
  };
}

}  // namespace swiftprune::cuda
