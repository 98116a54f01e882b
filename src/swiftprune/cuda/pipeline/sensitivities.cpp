// What pipeline/choices/allocate.cpp measures, in the same way on the device.
#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <optional>

#include "swiftprune/core/progress.h"
#include "swiftprune/cuda/device.h"
#include "swiftprune/cuda/forward/head.h"
#include "swiftprune/cuda/forward/streaming.h"
#include "swiftprune/cuda/pipeline/row_effects.h"
#include "swiftprune/cuda/pipeline/streams.h"
#include "swiftprune/cuda/refinement/admm.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/pipeline/streams/trial_streams.h"

namespace swiftprune::cuda {
namespace {

using Entries = std::vector<const PlanEntry*>;

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

struct Sizes {
  std::int64_t rows = 0, cols = 0, numel = 0;
  std::array<std::int64_t, kNumLinearInputs> grams{};
};
Sizes sizes_of(const Plan& plan) {
  Sizes sizes;
  for (const PlanEntry& entry : plan.entries) {
    if (!is_allocated(entry)) continue;
    sizes.rows = std::max(sizes.rows, entry.rows);
    sizes.cols = std::max(sizes.cols, entry.cols);
    sizes.numel = std::max(sizes.numel, entry.rows * entry.cols);
    auto& gram = sizes.grams[static_cast<std::size_t>(entry.input)];
    gram = std::max(gram, entry.cols);
  }
  return sizes;
}

class Probe {
 public:
  Probe(const Model& model, const Plan& plan, const TokenWindows& windows, DType compute,
        const DeviceOptions& device)
      : model_(model),
        windows_(shortened(windows, kProbeGramWindows, windows.seqlen)),
        tokens_(std::min(kProbeTokens, windows.seqlen)),
        hidden_size_(model.config().hidden_size),
        memory_(device.memory_bytes),
        products_(memory_, stream_),
        matrix_(memory_, stream_),
        columns_(memory_, model, stream_),
        loader_(model, device.index),
        pruned_(memory_, model, compute),
        trial_(memory_, model, compute),
        forward_(memory_, products_, model, rows_per_pass(windows_), windows_.seqlen, compute, stream_),
        probe_rows_(std::max<std::int64_t>(1, kTokensPerPass / tokens_) * tokens_),
        probe_forward_(memory_, products_, model, probe_rows_, tokens_, compute, stream_),
        sizes_(sizes_of(plan)),
        scratch_(memory_, compute, rows_per_pass(windows_), sizes_.cols, 0, 0),
        admm_(memory_, products_, matrix_, sizes_.rows, sizes_.cols, sizes_.numel, stream_),
        options_(kProbeRefiner),
        counters_(memory_, sizeof(PruneCounters), "counters"),
        hidden_(embed(memory_, model, windows_, stream_)) {
    for (int i = 0; i < 2; ++i) slots_.emplace_back(memory_, model, compute);
    for (std::size_t i = 0; i < moments_.size(); ++i) {
      const std::int64_t n = sizes_.grams[i];
      moments_[i].gram =
          DeviceBuffer(memory_, static_cast<std::uint64_t>(n * n) * sizeof(float), "Gram matrices");
      stats_.emplace_back(memory_, n, stream_);
    }
    constexpr std::string_view kWhat = "the hidden states of the probes";
    const std::int64_t layers = model.config().num_layers();
    changed_ = DeviceMatrix(memory_, DType::kF32, layers * tokens_, hidden_size_, kWhat);
    for (DeviceMatrix* m : {&input_, &dense_, &out_})
      *m = DeviceMatrix(memory_, DType::kF32, tokens_, hidden_size_, kWhat);
    check(cudaMemsetAsync(counters_.data(), 0, counters_.bytes(), stream_));
  }

  DeviceSensitivities run(const Plan& plan, const ProgressFn& progress) {
    std::map<std::int64_t, Entries> by_layer;
    for (const PlanEntry& entry : plan.entries) by_layer[entry.layer].push_back(&entry);
    const std::int64_t layers = model_.config().num_layers();
    DeviceSensitivities result;
    std::vector<double> changes;
    std::vector<double> local;
    loader_.start(0, slots_[0]);
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      check_interrupt();
      BlockWeights& block = slots_[static_cast<std::size_t>(layer % 2)];
      loader_.finish();
      stream_.synchronize();
      if (layer + 1 < layers) loader_.start(layer + 1, slots_[static_cast<std::size_t>((layer + 1) % 2)]);
      block.refresh(stream_);
      result.readers.push_back(columns_.readers_of(block));
      const std::vector<double> of_block = block_changes(layer, block, by_layer.at(layer));
      changes.insert(changes.end(), of_block.begin(), of_block.end() - 1);
      local.push_back(of_block.back());
      if (progress) progress("allocate", layer + 1, layers);
    }
    result.values = sensitivities_of(plan, changes, local, final_changes());
    return result;
  }

 private:
  // Local changes of the block's linears (0 where nothing is measured), then of the block pruned whole.
  std::vector<double> block_changes(std::int64_t layer, const BlockWeights& block, const Entries& entries) {
    copy(hidden_.view().row_block(0, tokens_), input_.view(), stream_);
    const std::int64_t before = layer * tokens_;
    for (std::int64_t first = 0; first < before; first += probe_rows_) {
      probe_forward_.run(block, changed_.view().row_block(first, std::min(probe_rows_, before - first)));
    }
    prune_linears(block, entries);
    copy(input_.view(), dense_.view(), stream_);
    probe_forward_.run(block, dense_.view());

    const std::size_t n = entries.size();
    const auto tokens = static_cast<std::size_t>(tokens_);
    const DeviceBuffer ratios(memory_, (n + 1) * tokens * sizeof(double), "changes");
    check(cudaMemsetAsync(ratios.data(), 0, ratios.bytes(), stream_));
    const auto measure = [&](const BlockWeights& weights, DeviceView out, std::size_t place) {
      copy(input_.view(), out, stream_);
      probe_forward_.run(weights, out);
      relative_changes(static_cast<const float*>(dense_.view().data), static_cast<const float*>(out.data),
                       tokens_, hidden_size_, ratios.as<double>() + place * tokens, stream_);
    };
    trial_.copy_from(block, stream_);
    for (std::size_t i = 0; i < n; ++i) {
      if (!is_allocated(*entries[i])) continue;
      copy(pruned_.weight(i), trial_.weight(i), stream_);
      trial_.refresh(entries[i]->input, stream_);
      measure(trial_, out_.view(), i);
      copy(block.weight(i), trial_.weight(i), stream_);
      trial_.refresh(entries[i]->input, stream_);
    }
    pruned_.refresh(stream_);
    measure(pruned_, changed_.view().row_block(before, tokens_), n);
    std::vector<double> host((n + 1) * tokens);
    check(cudaMemcpyAsync(host.data(), ratios.data(), ratios.bytes(), cudaMemcpyDeviceToHost, stream_));
    stream_.synchronize();
    std::vector<double> changes;
    for (std::size_t i = 0; i <= n; ++i)
      changes.push_back(mean_of(std::span(host).subspan(i * tokens, tokens)));
    return changes;
  }

  // Runs the dense stream on; pruned_ gets the block with all linears that are measured pruned.
  void prune_linears(const BlockWeights& block, const Entries& entries) {
    pruned_.copy_from(block, stream_);
    std::array<bool, kNumLinearInputs> wanted{};
    for (const PlanEntry* entry : entries) {
      const auto input = static_cast<std::size_t>(entry->input);
      if (!is_allocated(*entry) || wanted[input]) continue;
      wanted[input] = true;
      stats_[input].start(entry->cols, {.energy = true, .gram = true}, moments_[input], 0);
    }
    const DeviceObserver observer = [&](LinearInput input, DeviceView x) {
      if (!wanted[static_cast<std::size_t>(input)]) return;
      DeviceStats& stats = stats_[static_cast<std::size_t>(input)];
      stats.add_windows(scratch_, x, windows_.seqlen);
      stats.add_gram(products_, x);
    };
    for_passes(windows_, [&](std::int64_t first, std::int64_t rows) {
      forward_.run(block, hidden_.view().row_block(first, rows), &observer);
    });
    for (std::size_t input = 0; input < stats_.size(); ++input) {
      bool prepared = false;
      for (std::size_t i = 0; i < entries.size(); ++i) {
        const PlanEntry& entry = *entries[i];
        if (!is_allocated(entry) || static_cast<std::size_t>(entry.input) != input) continue;
        if (!std::exchange(prepared, true)) {
          stats_[input].finish(entry.tensor);
          admm_.prepare(stats_[input], options_, nullptr, entry.tensor);
        }
        PruneTarget target;
        target.sparsity = kProbeSparsity;
        target.tensor = entry.tensor;
        admm_.refine(block.weight(i), target, pruned_.weight(i), counters_.as<PruneCounters>());
      }
    }
  }

  // Of the final normed hidden state, behind each block pruned whole.
  std::vector<double> final_changes() {
    const DeviceView dense = hidden_.view().row_block(0, tokens_);
    const DeviceFinalNorm norm(memory_, model_, stream_);
    for (const DeviceView rows : {dense, changed_.view()}) norm.apply(rows, rows.data, DType::kF32);
    const std::int64_t layers = model_.config().num_layers();
    const auto tokens = static_cast<std::size_t>(tokens_);
    const DeviceBuffer ratios(memory_, static_cast<std::size_t>(layers) * tokens * sizeof(double), "changes");
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      const DeviceView rows = changed_.view().row_block(layer * tokens_, tokens_);
      relative_changes(static_cast<const float*>(dense.data), static_cast<const float*>(rows.data), tokens_,
                       hidden_size_, ratios.as<double>() + layer * tokens_, stream_);
    }
    std::vector<double> host(ratios.bytes() / sizeof(double));
    check(cudaMemcpyAsync(host.data(), ratios.data(), ratios.bytes(), cudaMemcpyDeviceToHost, stream_));
    stream_.synchronize();
    std::vector<double> changes;
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      changes.push_back(mean_of(std::span(host).subspan(static_cast<std::size_t>(layer) * tokens, tokens)));
    }
    return changes;
  }

  const Model& model_;
  TokenWindows windows_;
  std::int64_t tokens_, hidden_size_;
  DeviceMemory memory_;
  Stream stream_;
  Products products_;
  MatrixSelect matrix_;
  ColumnEnergies columns_;
  BlockLoader loader_;
  std::vector<BlockWeights> slots_;
  BlockWeights pruned_, trial_;  // all linears pruned; one of them
  BlockForward forward_;
  std::int64_t probe_rows_;
  BlockForward probe_forward_;  // of sequences of `tokens_`
  Sizes sizes_;
  StatisticsScratch scratch_;
  DeviceAdmm admm_;
  DeviceAdmmOptions options_;
  DeviceBuffer counters_;
  std::array<Moments, kNumLinearInputs> moments_;
  std::vector<DeviceStats> stats_;
  DeviceMatrix hidden_;               // [windows·seqlen, hidden] of the dense model
  DeviceMatrix changed_;              // [layers·tokens, hidden]: part b has only block b pruned
  DeviceMatrix input_, dense_, out_;  // [tokens, hidden] of the block in hand
};

}  // namespace

DeviceSensitivities measure_sensitivities(const Model& model, const Plan& plan, const TokenWindows& windows,
                                          ComputeType compute, const DeviceOptions& device,
                                          const ProgressFn& progress) {
  expect(windows.num_windows() > 0, "measure_sensitivities: calibration windows");
  check(cudaSetDevice(device.index));
  const bool any = std::any_of(plan.entries.begin(), plan.entries.end(), is_allocated);
  if (!any) return {std::vector<double>(plan.entries.size(), 0.0), {}};
  return Probe(model, plan, windows, compute == ComputeType::kBF16 ? DType::kBF16 : DType::kF32, device)
      .run(plan, progress);
}

}  // namespace swiftprune::cuda
