// calibration/stopping.h on the device: energies add up there, and come back as they are behind each segment.
#include <algorithm>
#include <array>
#include <vector>

#include "swiftprune/cuda/forward/block_stream.h"
#include "swiftprune/cuda/forward/head.h"
#include "swiftprune/cuda/pipeline/stream_ops.h"
#include "swiftprune/cuda/stages.h"
#include "swiftprune/cuda/statistics/statistics_kernels.h"
#include "swiftprune/model/observed_linear.h"

namespace swiftprune::cuda {
namespace {

class DeviceInputEnergies final : public InputEnergies {
 public:
  DeviceInputEnergies(const Model& model, const TokenWindows& windows, ComputeType compute,
                      const GpuOptions& device)
      : model_(model),
        windows_(windows),
        device_(device.index),
        memory_(device.memory_bytes),
        products_(memory_, stream_),
        blocks_(memory_, products_, model, device_, nullptr, rows_per_pass(windows), windows.seqlen,
                compute_dtype(model, compute), stream_) {
    const ModelConfig& m = model.config();
    scratch_ = DeviceBuffer(memory_,
                            static_cast<std::uint64_t>(statistics_scratch(kStoppingSegment, widest_input(m))),
                            "statistics");
    for (std::int64_t layer = 0; layer < m.num_layers(); ++layer) {
      const BlockConfig& block = m.blocks[static_cast<std::size_t>(layer)];
      for (int i = 0; i < kNumLinearInputs; ++i) {
        const auto input = static_cast<LinearInput>(i);
        // Where all of the MLP are experts, their inputs are seen, and no down projection's.
        const bool of_experts = block.experts && block.up.empty() && input == LinearInput::kMlp;
        const std::int64_t inputs = of_experts ? m.hidden_size : observed_width(block, input, m.hidden_size);
        const std::uint64_t bytes = static_cast<std::uint64_t>(inputs) * sizeof(double);
        energies_.emplace_back(memory_, bytes, "energies");
        check(cudaMemsetAsync(energies_.back().data(), 0, bytes, stream_));
      }
    }
  }

  void follow(std::int64_t first, std::int64_t count, const Consume& consume) override {
    check(cudaSetDevice(device_));
    const auto begin = windows_.ids.begin() + first * windows_.seqlen;
    const TokenWindows part{windows_.seqlen, {begin, begin + count * windows_.seqlen}};
    const DeviceMatrix hidden = embed(memory_, model_, part, stream_);
    for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
      run_layer(layer, part, hidden.view());
      for (std::size_t input = 0; input < kNumLinearInputs; ++input) {
        const std::size_t size = seen_[input].size() / static_cast<std::size_t>(count * num_segments());
        if (size == 0) continue;
        for (std::int64_t i = 0; i < count * num_segments(); ++i) {
          consume(layer, static_cast<LinearInput>(input), i / num_segments(), i % num_segments(),
                  std::span(seen_[input]).subspan(static_cast<std::size_t>(i) * size, size));
        }
      }
    }
  }

 private:
  std::int64_t num_segments() const { return (windows_.seqlen + kStoppingSegment - 1) / kStoppingSegment; }

  // The energies behind each segment of all windows, on the host.
  void run_layer(std::int64_t layer, const TokenWindows& part, DeviceView hidden) {
    BlockWeights& block = blocks_.load(layer);
    std::array<DeviceBuffer, kNumLinearInputs> seen;
    for (std::size_t input = 0; input < kNumLinearInputs; ++input) {
      seen[input] = DeviceBuffer(memory_,
                                 energies_[index_of(layer, input)].bytes() *
                                     static_cast<std::uint64_t>(part.num_windows() * num_segments()),
                                 "energies");
    }
    std::array<std::int64_t, kNumLinearInputs> next{};  // segment
    const DeviceObserver observer = [&](LinearInput of, DeviceView x) {
      const auto input = static_cast<std::size_t>(of);
      const DeviceBuffer& energy = energies_[index_of(layer, input)];
      for (std::int64_t window = 0; window < x.rows; window += part.seqlen) {
        for (std::int64_t row = 0; row < part.seqlen; row += kStoppingSegment) {
          StatisticsArgs args;
          const DeviceView rows = x.row_block(window + row, std::min(kStoppingSegment, part.seqlen - row));
          args.x = rows.data;
          args.dtype = rows.dtype;
          args.rows = rows.rows;
          args.cols = rows.cols;
          args.energy = energy.as<double>();
          args.scratch = scratch_.data();
          add_statistics(args, stream_);
          check(
              cudaMemcpyAsync(seen[input].data() + energy.bytes() * static_cast<std::uint64_t>(next[input]++),
                              energy.data(), energy.bytes(), cudaMemcpyDeviceToDevice, stream_));
        }
      }
    };
    for_passes(part, [&](std::int64_t first, std::int64_t rows) {
      blocks_.forward().run(block, hidden.row_block(first, rows), &observer);
    });
    for (std::size_t input = 0; input < kNumLinearInputs; ++input) {
      seen_[input].resize(seen[input].bytes() / sizeof(double));
      check(cudaMemcpyAsync(seen_[input].data(), seen[input].data(), seen[input].bytes(),
                            cudaMemcpyDeviceToHost, stream_));
    }
    stream_.synchronize();
  }

  static std::size_t index_of(std::int64_t layer, std::size_t input) {
    return static_cast<std::size_t>(layer) * kNumLinearInputs + input;
  }

  const Model& model_;
  const TokenWindows& windows_;
  const int device_;
  DeviceMemory memory_;
  Stream stream_;
  Products products_;
  BlockStream blocks_;
  DeviceBuffer scratch_;
  std::vector<DeviceBuffer> energies_;                      // [I] of each input of each layer
  std::array<std::vector<double>, kNumLinearInputs> seen_;  // behind each segment, of the layer in hand
};

}  // namespace

std::unique_ptr<InputEnergies> make_input_energies(const Model& model, const TokenWindows& windows,
                                                   ComputeType compute, const GpuOptions& device) {
  check(cudaSetDevice(device.index));
  return std::make_unique<DeviceInputEnergies>(model, windows, compute, device);
}

}  // namespace swiftprune::cuda
