// pipeline/choices/probe_shop.h on the device.
#include "swiftprune/pipeline/choices/probe_shop.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/selection/selection_kernels.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <utility>

#include "swiftprune/cuda/forward/head.h"
#include "swiftprune/cuda/pipeline/block_slots.h"
#include "swiftprune/cuda/pipeline/row_effects.h"
#include "swiftprune/cuda/pipeline/stream_ops.h"
#include "swiftprune/cuda/refinement/admm.h"
#include "swiftprune/cuda/stages.h"
#include "swiftprune/model/observed_linear.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/pipeline/choices/sensitivities.h"
#include "swiftprune/pipeline/streams/whole_stream.h"

namespace swiftprune::cuda {
namespace {

struct Sizes {  // the largest of what is allocated
  std::int64_t rows = 0, cols = 0, numel = 0;
  std::array<std::int64_t, kNumLinearInputs> grams{};
  std::int64_t part = 0;  // the most inputs of a linear that reads only some of what is observed
};
Sizes sizes_of(const Plan& plan, const ModelConfig& model) {
  Sizes sizes;
  for (const PlanEntry& entry : plan.entries) {
    if (!is_allocated(entry)) continue;
    sizes.rows = std::max(sizes.rows, entry.rows);
    sizes.cols = std::max(sizes.cols, entry.cols);
    sizes.numel = std::max(sizes.numel, entry.rows * entry.cols);
    auto& gram = sizes.grams[static_cast<std::size_t>(entry.input)];
    const std::int64_t width =
        observed_width(model.blocks[static_cast<std::size_t>(entry.layer)], entry.input, model.hidden_size);
    gram = std::max(gram, width);
    sizes.cols = std::max(sizes.cols, width);
    if (width != entry.cols) sizes.part = std::max(sizes.part, entry.cols);
  }
  return sizes;
}

class CudaProbeShop final : public ProbeShop {
 public:
  CudaProbeShop(const ProbeRun& run, const GpuOptions& device)
      : CudaProbeShop(run, device, run.compute == ComputeType::kBF16 ? DType::kBF16 : DType::kF32,
                      sizes_of(run.plan, run.model.config())) {}

  void load(std::int64_t layer) override {
    layer_ = layer;
    slots_.load(layer, layer + 1 < num_layers() ? layer + 1 : -1);
    num_changes_ = 0;
    check(cudaMemsetAsync(ratios_.data(), 0, ratios_.bytes(), stream_));
  }

  RowEffects::Readers readers() override { return columns_.readers_of(slots_.block()); }

  void enter() override {
    copy(windows_.hidden().view().row_block(0, run_.tokens), input_.view(), stream_);
    // Each alone: the products' bits may depend on the number of rows, and that on the number of ranks.
    for (std::int64_t i = 0; i < probed_before(layer_); ++i)
      probe_forward_.run(slots_.block(), changed_.view().row_block(i * run_.tokens, run_.tokens));
    pruned_.copy_from(slots_.block(), stream_);
    trial_.copy_from(slots_.block(), stream_);
  }

  void pass(const std::array<bool, kNumLinearInputs>& inputs) override {
    WholeStream<DeviceStreamOps>::StatsOfInputs stats{};
    for (const BlockLayout::Weight& weight : slots_.block().layout().weights) {
      const auto input = static_cast<std::size_t>(weight.input);
      if (!inputs[input] || stats[input] != nullptr) continue;
      stats_[input].start(
          observed_width(slots_.block().config(), weight.input, run_.model.config().hidden_size),
          {.energy = true, .gram = true}, moments_[input], 0);
      stats[input] = &stats_[input];
    }
    windows_.pass(slots_.block(), stats);
  }

  void start_input(LinearInput input, const std::string& tensor) override {
    DeviceStats& stats = stats_[static_cast<std::size_t>(input)];
    stats.finish(tensor);
    part_first_ = -1;
    // Preparing uses the matrix up, of which parts are taken.
    const bool in_parts = input == LinearInput::kAttentionOutput && slots_.block().config().beside;
    if (!in_parts) admm_.prepare(stats, options_, nullptr, tensor);
  }

  void prune(std::size_t linear, const PruneTarget& target) override {
    prepare_part(linears_of(slots_.block().config())[linear]);
    admm_.refine(slots_.block().weight(linear), target, pruned_.weight(linear),
                 counters_.as<PruneCounters>());
  }

  void try_alone(std::size_t linear) override {
    if (num_changes_ == 0) run_dense();
    const LinearInput input = slots_.block().layout().weights[linear].input;
    copy(pruned_.weight(linear), trial_.weight(linear), stream_);
    trial_.refresh(input, stream_);
    measure(trial_, out_.view());
    copy(slots_.block().weight(linear), trial_.weight(linear), stream_);
    trial_.refresh(input, stream_);
  }

  void try_all() override {
    if (num_changes_ == 0) run_dense();
    pruned_.refresh(stream_);
    measure(pruned_, changed_.view().row_block(probed_before(layer_) * run_.tokens, run_.tokens));
  }

  std::vector<double> changes() override { return means(ratios_, num_changes_); }

  std::vector<double> final_changes() override {
    const DeviceView dense = hidden(windows_.hidden().view().row_block(0, run_.tokens));
    const DeviceFinalNorm norm(memory_, run_.model, stream_);
    for (const DeviceView rows : {dense, hidden(changed_.view())}) norm.apply(rows);
    const DeviceBuffer ratios(
        memory_, static_cast<std::uint64_t>(num_layers() * run_.tokens) * sizeof(double), "changes");
    const std::int64_t probed = probed_before(num_layers());
    for (std::int64_t i = 0; i < probed; ++i) {
      const DeviceView rows = hidden(changed_.view().row_block(i * run_.tokens, run_.tokens));
      relative_changes(strided(dense), strided(rows), run_.tokens, rows.cols,
                       ratios.as<double>() + i * run_.tokens, stream_);
    }
    const std::vector<double> of_probed = means(ratios, probed);
    std::vector<double> changes(static_cast<std::size_t>(num_layers()), 0.0);
    for (std::int64_t layer = 0; layer < num_layers(); ++layer) {
      if (run_.probed[static_cast<std::size_t>(layer)])
        changes[static_cast<std::size_t>(layer)] = of_probed[static_cast<std::size_t>(probed_before(layer))];
    }
    return changes;
  }

 private:
  CudaProbeShop(const ProbeRun& run, const GpuOptions& device, DType compute, const Sizes& sizes)
      : run_(run),
        memory_(device.memory_bytes),
        products_(memory_, stream_),
        matrix_(memory_, stream_),
        columns_(memory_, run.model, stream_),
        slots_(memory_, run.model, compute, device.index, stream_),
        pruned_(memory_, run.model, compute),
        trial_(memory_, run.model, compute),
        forward_(memory_, products_, run.model, rows_per_pass(run.windows), run.windows.seqlen, compute,
                 stream_),
        probe_forward_(memory_, products_, run.model, run.tokens, run.tokens, compute, stream_),
        scratch_(memory_, compute, rows_per_pass(run.windows), sizes.cols, 0, 0),
        admm_(memory_, products_, matrix_, sizes.rows, sizes.cols, sizes.numel, stream_),
        options_(kProbeRefiner),
        counters_(memory_, sizeof(PruneCounters), "counters"),
        ops_(memory_, products_, forward_, scratch_, run.model, run.windows, stream_),
        windows_(ops_) {
    for (std::size_t i = 0; i < moments_.size(); ++i) {
      const std::int64_t n = sizes.grams[i];
      moments_[i].gram =
          DeviceBuffer(memory_, static_cast<std::uint64_t>(n * n) * sizeof(float), "Gram matrices");
      stats_.emplace_back(memory_, n, stream_);
    }
    if (sizes.part > 0) {
      part_stats_.emplace(memory_, sizes.part, stream_);
      part_moments_.gram = DeviceBuffer(
          memory_, static_cast<std::uint64_t>(sizes.part * sizes.part) * sizeof(float), "Gram matrices");
    }
    constexpr std::string_view kWhat = "the hidden states of the probes";
    const std::int64_t row_size = run.model.config().row_size();
    changed_ = DeviceMatrix(memory_, DType::kF32, probed_before(num_layers()) * run.tokens, row_size, kWhat);
    for (DeviceMatrix* m : {&input_, &dense_, &out_})
      *m = DeviceMatrix(memory_, DType::kF32, run.tokens, row_size, kWhat);
    check(cudaMemsetAsync(counters_.data(), 0, counters_.bytes(), stream_));
    std::size_t linears = 0;
    for (const BlockConfig& block : run.model.config().blocks)
      linears = std::max(linears, linears_of(block).size());
    ratios_ = DeviceBuffer(memory_, (linears + 1) * static_cast<std::size_t>(run.tokens) * sizeof(double),
                           "changes");
  }

  std::int64_t num_layers() const { return run_.model.config().num_layers(); }
  DeviceView hidden(DeviceView rows) const { return hidden_of(run_.model.config(), rows); }
  // Where the linear reads a part of what is observed, that is what it is pruned by.
  void prepare_part(const LinearTensors& linear) {
    const DeviceStats& stats = stats_[static_cast<std::size_t>(linear.input)];
    if (linear.inputs == stats.inputs() ||
        std::exchange(part_first_, linear.first_input) == linear.first_input)
      return;
    part_stats_->take_part(stats, linear.first_input, linear.inputs, part_moments_);
    admm_.prepare(*part_stats_, options_, nullptr, linear.name);
  }

  // Blocks before this one that are probed: whose changed rows are kept.
  std::int64_t probed_before(std::int64_t layer) const {
    return std::count(run_.probed.begin(), run_.probed.begin() + layer, true);
  }

  void run_dense() {
    copy(input_.view(), dense_.view(), stream_);
    probe_forward_.run(slots_.block(), dense_.view());
  }

  // The next change of the block: of its output with these weights, which goes to `out`.
  void measure(const BlockWeights& weights, DeviceView out) {
    copy(input_.view(), out, stream_);
    probe_forward_.run(weights, out);
    const DeviceView changed = hidden(out);
    relative_changes(strided(hidden(dense_.view())), strided(changed), run_.tokens, changed.cols,
                     ratios_.as<double>() + num_changes_ * run_.tokens, stream_);
    ++num_changes_;
  }

  // Over each of `count` runs of tokens. Waits for the device.
  std::vector<double> means(const DeviceBuffer& ratios, std::int64_t count) const {
    const auto tokens = static_cast<std::size_t>(run_.tokens);
    std::vector<double> host(static_cast<std::size_t>(count) * tokens);
    check(cudaMemcpyAsync(host.data(), ratios.data(), host.size() * sizeof(double), cudaMemcpyDeviceToHost,
                          stream_));
    stream_.synchronize();
    std::vector<double> result;
    for (auto first = host.begin(); first != host.end(); first += run_.tokens)
      result.push_back(std::accumulate(first, first + run_.tokens, 0.0) / static_cast<double>(tokens));
    return result;
  }

  const ProbeRun& run_;
  DeviceMemory memory_;
  Stream stream_;
  Products products_;
  MatrixSelect matrix_;
  ColumnEnergies columns_;
  BlockSlots slots_;
  BlockWeights pruned_, trial_;  // all linears pruned; one of them
  BlockForward forward_;
  BlockForward probe_forward_;  // of sequences of the probe's tokens
  StatisticsScratch scratch_;
  DeviceAdmm admm_;
  DeviceAdmmOptions options_;
  DeviceBuffer counters_;
  DeviceStreamOps ops_;
  WholeStream<DeviceStreamOps> windows_;  // of the dense model
  std::array<Moments, kNumLinearInputs> moments_;
  std::vector<DeviceStats> stats_;
  std::optional<DeviceStats> part_stats_;  // of some of an input's columns
  Moments part_moments_;
  std::int64_t part_first_ = -1;
  DeviceMatrix changed_;              // [probed layers·tokens, row_size]: each part has one block pruned
  DeviceMatrix input_, dense_, out_;  // [tokens, row_size] of the block in hand
  DeviceBuffer ratios_;               // by change and token
  std::int64_t num_changes_ = 0;
  std::int64_t layer_ = -1;
};

}  // namespace

ProbeShopMaker probe_shop(const GpuOptions& device) {
  return [device](const ProbeRun& run) {
    check(cudaSetDevice(device.index));
    return std::make_unique<CudaProbeShop>(run, device);
  };
}

}  // namespace swiftprune::cuda
