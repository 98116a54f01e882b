#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include "swiftprune/cuda/forward/head.h"
#include "swiftprune/cuda/forward/streaming.h"
#include "swiftprune/cuda/pipeline/stream_ops.h"
#include "swiftprune/cuda/sparse/tuning.h"
#include "swiftprune/cuda/stages.h"

namespace swiftprune::cuda {
namespace {

// Windows whose hidden states fit beside everything else.
std::int64_t windows_at_once(const DeviceMemory& memory, const Model& model, const TokenWindows& windows) {
  const auto window_bytes =
      static_cast<std::uint64_t>(windows.seqlen * model.config().hidden_size) * sizeof(float);
  const std::uint64_t free = memory.limit() - memory.used();
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(free / 2 / window_bytes), 1,
                                  windows.num_windows());
}

TokenWindows part_of(const TokenWindows& windows, std::int64_t first, std::int64_t count) {
  const auto begin = windows.ids.begin() + first * windows.seqlen;
  return {windows.seqlen, std::vector<std::int32_t>(begin, begin + count * windows.seqlen)};
}

// What stays the same for all parts of a text.
class Evaluator {
 public:
  Evaluator(const Model& model, const ForwardOptions& options, const GpuOptions& device)
      : model_(model),
        options_(options),
        memory_(device.memory_bytes),
        compute_(compute_dtype(model, options.compute)),
        products_(memory_, stream_),
        head_(memory_, products_, model, compute_, 0, stream_),
        loader_(model, device.index) {
    for (int i = 0; i < 2; ++i) slots_.emplace_back(memory_, model, compute_);
    if (device.timings != nullptr) tuner_.emplace(*device.timings, device.index, memory_, products_, stream_);
  }

  // Σ of the scored tokens' losses of each window.
  std::vector<double> window_sums(const ScoredWindows& scored) {
    const TokenWindows& windows = scored.windows;
    BlockForward forward(memory_, products_, model_, rows_per_pass(windows), windows.seqlen, compute_,
                         stream_);
    const std::int64_t total = windows.num_windows() * model_.config().num_layers();
    const std::int64_t group = windows_at_once(memory_, model_, windows);
    std::vector<double> sums;
    std::int64_t done = 0;
    for (std::int64_t first = 0; first < windows.num_windows(); first += group) {
      const TokenWindows part = part_of(windows, first, std::min(group, windows.num_windows() - first));
      const DeviceMatrix hidden = embed(memory_, model_, part, stream_);
      run_blocks(forward, part, hidden, [&] {
        done += part.num_windows();
        if (options_.progress) options_.progress("forward", done, total);
      });
      for (std::int64_t w = 0; w < part.num_windows(); ++w) {
        const std::int64_t first_target = scored.first_target[static_cast<std::size_t>(first + w)];
        sums.push_back(head_.loss(part.window(w), hidden.view().row_block(w * windows.seqlen, windows.seqlen),
                                  first_target));
      }
    }
    return sums;
  }

 private:
  void run_blocks(BlockForward& forward, const TokenWindows& part, const DeviceMatrix& hidden,
                  const std::function<void()>& step) {
    const std::int64_t num_layers = model_.config().num_layers();
    loader_.start(0, slots_[0]);
    for (std::int64_t layer = 0; layer < num_layers; ++layer) {
      BlockWeights& block = slots_[static_cast<std::size_t>(layer % 2)];
      loader_.finish();
      stream_.synchronize();  // the block before may still be running on the weights that are replaced now
      if (layer + 1 < num_layers) {
        loader_.start(layer + 1, slots_[static_cast<std::size_t>((layer + 1) % 2)]);
      }
      block.load_packed(memory_, stream_);
      block.refresh(stream_);
      choose_forms(block, part);
      for_passes(part, [&](std::int64_t row, std::int64_t rows) {
        forward.run(block, hidden.view().row_block(row, rows));
      });
      step();
    }
  }

  // A block's weights are expanded once for all passes, or go to cuSPARSELt.
  void choose_forms(BlockWeights& block, const TokenWindows& part) {
    const std::int64_t rows = rows_per_pass(part);
    const std::int64_t passes = ceil_div(part.num_windows() * part.seqlen, rows);
    block.for_each_packed([&](DevicePacked& weight) {
      if (tuner_) {
        tuner_->choose_many(weight, rows, static_cast<double>(passes * model_.config().num_layers()));
      } else if (passes > 1 && !weight.is_dense()) {
        weight.keep_dense(memory_, stream_);
      }
    });
  }

  const Model& model_;
  const ForwardOptions& options_;
  DeviceMemory memory_;
  Stream stream_;
  DType compute_;
  Products products_;
  DeviceHead head_;
  BlockLoader loader_;
  std::optional<DeviceTuner> tuner_;  // holds the library that blocks' second forms use
  std::vector<BlockWeights> slots_;
};

}  // namespace

PerplexityResult perplexity(const Model& model, std::span<const ScoredWindows> parts,
                            const ForwardOptions& options, const GpuOptions& device) {
  check(cudaSetDevice(device.index));
  Evaluator evaluator(model, options, device);
  return swiftprune::perplexity_of(model, parts,
                                   [&](const ScoredWindows& part) { return evaluator.window_sums(part); });
}

}  // namespace swiftprune::cuda
