// pipeline/drivers/shrink.h on the device: blocks stream from the mapped files to the device, what is left of
// them goes back while others compute.
#include "swiftprune/pipeline/drivers/shrink.h"

#include <algorithm>
#include <map>
#include <optional>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/cuda/device.h"
#include "swiftprune/cuda/forward/streaming.h"
#include "swiftprune/cuda/pipeline/streams.h"
#include "swiftprune/cuda/structure/unit_scores.h"

namespace swiftprune::cuda {
namespace {

using enum LinearInput;

constexpr std::uint64_t kRoomForSecondSlot = 3;  // what else may be allocated is small beside a block

std::uint64_t floats(std::int64_t n) { return static_cast<std::uint64_t>(n) * sizeof(float); }

// What a TensorWriter copies from the device goes to the smaller model.
class PartsOutput final : public PruneOutput {
 public:
  explicit PartsOutput(ShrinkOutput& output) : output_(output) {}
  void write(const std::string&, std::span<const float>) override {
    expect(false, "PartsOutput: parts of tensors");
  }
  void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> bytes) override {
    output_.write_part(name, first, bytes);
  }

 private:
  ShrinkOutput& output_;
};

class DeviceShrinker {
 public:
  DeviceShrinker(const Model& model, const ShrinkShape& shape, std::span<const std::int64_t> removed,
                 const TokenWindows& windows, const ShrinkOptions& options, const DeviceOptions& device,
                 ShrinkOutput& output)
      : model_(model),
        shape_(shape),
        windows_(windows),
        options_(options),
        output_(output),
        scorer_(unit_scorer(options.score)),
        added_biases_(added_biases(model.config(), shape, options.compensation)),
        device_(device.index),
        memory_(device.memory_bytes),
        compute_(options.compute == ComputeType::kBF16 ? DType::kBF16 : DType::kF32),
        products_(memory_, stream_) {
    for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
      const bool gone = std::find(removed.begin(), removed.end(), layer) != removed.end();
      if (gone && !aligned()) continue;
      layers_.push_back({layer, gone});
    }
  }

  ShrinkResult run() {
    {
      const Stopwatch total(result_.seconds.total);
      run_blocks();
    }
    return std::move(result_);
  }

 private:
  struct Layer {
    std::int64_t index;
    bool removed;
  };

  bool aligned() const { return options_.compensation == Compensation::kAligned; }
  bool refits() const { return aligned() || options_.compensation == Compensation::kRefit; }

  void run_blocks() {
    for (int i = 0; i < 2; ++i) add_slot(slots_);
    BlockLoader loader(model_, device_);
    PartsOutput parts(output_);
    TensorWriter writer(parts, device_);
    loader.start(layers_.front().index, slots_[0]);
    prepare_run();
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      check_interrupt();
      BlockWeights& block = slots_[i % 2];
      loader.finish();
      if (i + 1 < layers_.size()) {
        stream_.synchronize();  // the block before may still be running on the weights that are replaced now
        loader.start(layers_[i + 1].index, slots_[(i + 1) % 2]);
      }
      block.refresh(stream_);
      run_block(layers_[i], block, writer, i + 1 < layers_.size());
      options_.progress("shrink", layers_[i].index + 1, model_.config().num_layers());
    }
    writer.finish();
    stream_.synchronize();
    result_.seconds.load = loader.busy_seconds();
    result_.seconds.write = writer.busy_seconds();
  }

  void add_slot(std::vector<BlockWeights>& slots) {
    slots.emplace_back(memory_, model_, compute_);
    for (const LinearInput output : added_biases_) slots.back().reserve_bias(output);
  }

  // Everything on the device but the weights, sized once for all blocks.
  void prepare_run() {
    const Stopwatch watch(result_.seconds.forward);
    const ModelConfig& m = model_.config();
    std::int64_t cols = 0, numel = 0, gram = 0;
    for (const BlockConfig& block : m.blocks) {
      for (const LinearTensors& linear : linears_of(block)) {
        cols = std::max(cols, linear.inputs);
        numel = std::max(numel, linear.outputs * linear.inputs);
        if (aligned() || (is_output(linear.input) && needs_gram(linear.input)))
          gram = std::max(gram, linear.inputs);
      }
    }
    const std::int64_t hidden = m.hidden_size;
    const auto matrix = [&](std::int64_t rows, std::string_view what) {
      return DeviceBuffer(memory_, floats(rows * gram), what);
    };
    if (gram > 0) moments_.gram = matrix(gram, "Gram matrices");
    if (aligned()) moments_.cross = matrix(gram, "cross moments");
    if (aligned()) moments_.residual = matrix(hidden, "residual moments");
    const bool post_norm = m.blocks.front().post_mlp_norm || m.blocks.front().post_attention_norm;
    const std::int64_t rows = rows_per_pass(windows_);
    scratch_.emplace(memory_, compute_, rows, cols, aligned() || post_norm ? cols : 0,
                     aligned() ? hidden : 0);
    stats_.emplace(memory_, cols, stream_);
    energies_.emplace(memory_, model_, stream_);
    if (gram > 0) fit_.emplace(memory_, products_, *energies_, gram, numel, stream_);
    scores_.emplace(memory_, *energies_, fit_ ? &*fit_ : nullptr, model_, stream_);
    columns_.emplace(memory_, cols, stream_);
    original_ = DeviceBuffer(memory_, BlockWeights::max_weight_bytes(model_), "a linear");
    sums_ = DeviceBuffer(memory_, static_cast<std::uint64_t>(hidden) * sizeof(double), "means");
    forward_.emplace(memory_, products_, model_, rows, windows_.seqlen, compute_, stream_);
    if (aligned()) {
      add_slot(shrunk_slots_);
      two_.emplace(memory_, products_, *forward_, *scratch_, model_, windows_, stream_);
    } else {
      one_.emplace(memory_, products_, *forward_, *scratch_, model_, windows_, stream_);
    }
    // A second one where there is room: a block's tensors leave the device while the next computes.
    const std::uint64_t block = slots_.front().layout().bytes;
    const int num_staged = memory_.limit() - memory_.used() > kRoomForSecondSlot * block ? 2 : 1;
    for (int i = 0; i < num_staged; ++i)
      staged_.emplace_back(memory_, block, "the tensors of a smaller block");
  }

  bool needs_gram(LinearInput output) const {
    return loses_units(model_.config(), shape_, output) && (refits() || scorer_.needs.gram);
  }

  void run_block(const Layer& layer, BlockWeights& dense, TensorWriter& writer, bool more_to_come) {
    BlockWeights* block = &dense;
    {
      const Stopwatch watch(result_.seconds.forward);
      if (aligned()) {
        block = &shrunk_slots_.front();
        block->copy_from(dense, stream_);
        if (layer.removed) {
          block->silence(stream_);
          block->refresh(stream_);
        }
        two_->start_block(dense, *block);
      } else {
        one_->start_block(*block);
      }
    }
    ShrunkBlock shrunk{layer.index, all_units(model_.config())};
    biases_.clear();
    for (int i = 0; i < kNumLinearInputs; ++i) {
      const auto input = static_cast<LinearInput>(i);
      if (aligned() || is_output(input)) run_input(layer, *block, input, shrunk);
    }
    if (!layer.removed) {
      write(*block, shrunk, writer);
      result_.blocks.push_back(std::move(shrunk));
    }
    if (!more_to_come) return;
    const Stopwatch watch(result_.seconds.forward);
    aligned() ? two_->finish_block() : one_->finish_block();
  }

  void run_input(const Layer& layer, BlockWeights& block, LinearInput input, ShrunkBlock& shrunk) {
    const bool observed = !layer.removed && changes(layer.index, input);
    {
      const Stopwatch watch(result_.seconds.forward);
      if (observed) start_stats(block, input);
      DeviceStats* stats = observed ? &*stats_ : nullptr;
      aligned() ? two_->collect(input, stats) : one_->collect(input, stats);
      if (observed) stats_->finish(fmt::format("block {}, {}", layer.index, name_of(input)));
    }
    if (!observed) return;
    const Stopwatch watch(result_.seconds.solve);
    is_output(input) ? shrink_output(block, input, shrunk) : refit_readers(block, input);
    block.refresh(input, stream_);
    stream_.synchronize();
  }

  // As BlockShrinker::changes().
  bool changes(std::int64_t layer, LinearInput input) const {
    return aligned() || loses_units(model_.config(), shape_, layer, input);
  }

  void start_stats(const BlockWeights& block, LinearInput input) {
    StatNeeds needs;
    needs.energy = needs.gram = refits();
    needs.alignment = aligned();
    if (is_output(input)) {
      needs = needs | scorer_.needs;
      needs.energy = true;
      needs.sum |= balances_bias(block, input);
    }
    const bool residual = aligned() && is_output(input) && !BlockForward::norms_output(block, input);
    stats_->start(block.group(input).cols, needs, moments_, residual ? model_.config().hidden_size : 0);
  }

  bool balances_bias(const BlockWeights& block, LinearInput output) const {
    return options_.compensation != Compensation::kNone && !aligned() && block.bias(output) != nullptr;
  }

  void refit_readers(BlockWeights& block, LinearInput input) {
    std::vector<std::int64_t> all(static_cast<std::size_t>(stats_->inputs()));
    for (std::size_t j = 0; j < all.size(); ++j) all[j] = static_cast<std::int64_t>(j);
    bool prepared = false;
    for (std::size_t i = 0; i < block.layout().weights.size(); ++i) {
      const BlockLayout::Weight& weight = block.layout().weights[i];
      if (weight.input != input) continue;
      if (!std::exchange(prepared, true)) fit_->prepare(*stats_, all, options_.refit, weight.tensor);
      fit_->solve(block.weight(i));
      fit_->write(block.weight(i));
    }
  }

  // Chooses the units, refits what is left and balances the bias.
  void shrink_output(BlockWeights& block, LinearInput output, ShrunkBlock& shrunk) {
    const ModelConfig& m = model_.config();
    const std::size_t linear = block.output_projection(output);
    const DeviceView weight = block.weight(linear);
    const bool mlp = output == kMlpOutput;
    const std::int64_t count = units_in(shape_, shrunk.layer, output);
    std::vector<std::int64_t>& units = mlp ? shrunk.kept.channels : shrunk.kept.groups;
    units = best_units(scores_->score(scorer_, weight, *stats_, mlp ? count : weight.cols),
                       mlp ? 1 : columns_a_group(m), count);
    const std::vector<std::int64_t> columns = kept_columns(m, output, shrunk.kept);
    const DeviceView original = view_of(original_.data(), weight.dtype, weight.rows, weight.cols);
    const bool balances = balances_bias(block, output);
    if (balances) copy(weight, original, stream_);
    if (refits()) {
      RefitOptions options = options_.refit;
      if (!aligned()) options.alpha = options.beta = 0.0;
      fit_->prepare(*stats_, columns, options, block.layout().weights[linear].tensor);
      fit_->solve(weight);
      fit_->write(weight);
    } else {
      columns_->set(columns, weight.cols);
      keep_columns(columns_->place(), weight.rows, weight.cols, weight.data, weight.dtype, stream_);
    }
    if (balances) balance_bias(block, output, original, weight);
  }

  // The mean of what went joins the bias, as mean_error() has it.
  void balance_bias(BlockWeights& block, LinearInput output, DeviceView original, DeviceView weight) {
    const LayerStats stats = stats_->view();
    const DeviceBuffer sums = upload(memory_, stats.sum, "means", stream_);
    weighted_differences(original.data, weight.data, weight.dtype, weight.rows, weight.cols,
                         sums.as<double>(), sums_.as<double>(), stream_);
    std::vector<double> shift(static_cast<std::size_t>(weight.rows));
    check(cudaMemcpyAsync(shift.data(), sums_.data(), shift.size() * sizeof(double), cudaMemcpyDeviceToHost,
                          stream_));
    stream_.synchronize();
    const LinearTensors& tensors =
        output == kMlpOutput ? block.config().down : block.config().attention_output;
    std::vector<float> bias = dense_bias(tensors);
    for (std::size_t o = 0; o < bias.size(); ++o)
      bias[o] += static_cast<float>(shift[o] / static_cast<double>(stats.num_tokens));
    round_to(weight.dtype, bias);
    block.set_bias(output, bias, stream_);
    biases_[tensors.name] = std::move(bias);
  }

  std::vector<float> dense_bias(const LinearTensors& tensors) const {
    if (tensors.bias) return model_.checkpoint().load_vector(tensors.name + ".bias", tensors.outputs);
    return std::vector<float>(static_cast<std::size_t>(tensors.outputs), 0.0f);
  }

  // The block's tensors at their new sizes: weights by way of the device, biases from here.
  void write(const BlockWeights& block, const ShrunkBlock& shrunk, TensorWriter& writer) {
    const ModelConfig& m = model_.config();
    writer.wait_read(staged_.size() > 1);
    const DeviceBuffer& staged = staged_[result_.blocks.size() % staged_.size()];
    const std::vector<LinearTensors> linears = linears_of(block.config());
    std::vector<DeviceView> views;
    std::uint64_t end = 0;
    for (std::size_t i = 0; i < linears.size(); ++i) {
      const DeviceView weight = block.weight(i);
      const std::vector<std::int64_t> rows = kept_rows(m, i, shrunk.kept);
      std::vector<std::int64_t> columns;
      if (is_output(linears[i].input)) columns = kept_columns(m, linears[i].input, shrunk.kept);
      const auto num_columns = is_output(linears[i].input) ? std::ssize(columns) : weight.cols;
      views.push_back(view_of(staged.data() + end, weight.dtype, std::ssize(rows), num_columns));
      gather_into(weight, rows, columns, views.back());
      end += static_cast<std::uint64_t>(round_up(views.back().numel() * size_of(weight.dtype), 256));
      write_bias(linears[i], rows);
    }
    stream_.synchronize();
    for (std::size_t i = 0; i < linears.size(); ++i) writer.write(linears[i].name + ".weight", views[i]);
    writer.end_block({shrunk.layer, false, {}});
  }

  // columns: empty when all stay.
  void gather_into(DeviceView weight, const std::vector<std::int64_t>& rows,
                   const std::vector<std::int64_t>& columns, DeviceView to) {
    if (to.rows == weight.rows && to.cols == weight.cols) return copy(weight, to, stream_);
    const auto narrow = [&](const std::vector<std::int64_t>& indices, std::int64_t all) {
      if (indices.empty() || std::ssize(indices) == all) return DeviceBuffer();
      const std::vector<std::int32_t> values(indices.begin(), indices.end());
      return upload(memory_, std::span(values), "indices", stream_);  // pageable: read before it returns
    };
    const DeviceBuffer row_indices = narrow(rows, weight.rows), column_indices = narrow(columns, weight.cols);
    gather(weight.data, weight.dtype, weight.cols, row_indices.as<std::int32_t>(), to.rows,
           column_indices.as<std::int32_t>(), to.cols, to.data, stream_);
    stream_.synchronize();  // the indices live until here
  }

  void write_bias(const LinearTensors& tensors, const std::vector<std::int64_t>& rows) {
    const bool added = std::find(added_biases_.begin(), added_biases_.end(), output_of(tensors.input)) !=
                       added_biases_.end();
    if (!tensors.bias && !added) return;
    const auto changed = biases_.find(tensors.name);
    const std::vector<float> all = changed != biases_.end() ? changed->second : dense_bias(tensors);
    std::vector<float> bias;
    for (const std::int64_t row : rows) bias.push_back(all[static_cast<std::size_t>(row)]);
    output_.write_bias(tensors.name + ".bias", bias);
  }

  const Model& model_;
  const ShrinkShape& shape_;
  const TokenWindows& windows_;
  const ShrinkOptions& options_;
  ShrinkOutput& output_;
  const UnitScorer& scorer_;
  const std::vector<LinearInput> added_biases_;
  const int device_;
  DeviceMemory memory_;
  Stream stream_;
  const DType compute_;
  Products products_;
  std::vector<Layer> layers_;  // those that run
  std::vector<BlockWeights> slots_, shrunk_slots_;
  Moments moments_;  // of the input in hand
  std::optional<StatisticsScratch> scratch_;
  std::optional<DeviceStats> stats_;
  std::optional<ColumnEnergies> energies_;
  std::optional<DeviceColumnFit> fit_;
  std::optional<DeviceUnitScores> scores_;
  std::optional<KeptColumns> columns_;
  DeviceBuffer original_;  // an output projection before it changes
  DeviceBuffer sums_;
  std::optional<BlockForward> forward_;
  std::optional<DeviceOneStream> one_;
  std::optional<DeviceTwoStreams> two_;
  std::vector<DeviceBuffer> staged_;                  // tensors at their new sizes, on their way out
  std::map<std::string, std::vector<float>> biases_;  // of the block's output projections, where they changed
  ShrinkResult result_;
};

}  // namespace

ShrinkResult shrink(const Model& model, const ShrinkShape& shape,
                    std::span<const std::int64_t> removed_layers, const TokenWindows& windows,
                    const ShrinkOptions& options, const DeviceOptions& device, ShrinkOutput& output) {
  check_shrink(model, shape, removed_layers, windows);
  check(cudaSetDevice(device.index));
  return DeviceShrinker(model, shape, removed_layers, windows, options, device, output).run();
}

}  // namespace swiftprune::cuda
