#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "swiftprune/cuda/device.h"
#include "swiftprune/cuda/streaming.h"
#include "swiftprune/cuda/streams.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune::cuda {
namespace {

constexpr std::int64_t kLogitBytes = std::int64_t{256} << 20;  // logits in memory at a time

// The final norm and the output projection on the device.
class DeviceHead {
 public:
  DeviceHead(DeviceMemory& memory, Products& products, const Model& model, DType compute, cudaStream_t stream)
      : model_(model.config()), products_(products), compute_(compute), stream_(stream) {
    const Checkpoint& checkpoint = model.checkpoint();
    const TensorInfo& head = checkpoint.at(model_.head);
    const std::int64_t vocab = model_.vocab_size;
    const std::int64_t hidden = model_.hidden_size;
    weight_ = DeviceMatrix(memory, compute, vocab, hidden, "the output projection");
    DeviceBuffer raw;
    void* target = weight_.view().data;
    if (head.dtype != compute) {
      raw = DeviceBuffer(memory, static_cast<std::uint64_t>(head.num_bytes()), "the output projection");
      target = raw.data();
    }
    const auto bytes = checkpoint.bytes(head);
    check(cudaMemcpyAsync(target, bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream));
    if (head.dtype != compute) {
      convert(raw.data(), head.dtype, weight_.view().data, compute, vocab * hidden, stream);
    }
    const auto vector = [&](const std::string& name, std::int64_t size) {
      return upload(memory, std::span<const float>(checkpoint.load_vector(name, size)), "the final norm",
                    stream);
    };
    if (model_.final_norm && !model_.final_norm->gain.empty())
      gain_ = vector(model_.final_norm->gain, hidden);
    if (model_.final_norm && !model_.final_norm->bias.empty())
      bias_ = vector(model_.final_norm->bias, hidden);
    if (model_.head_bias) head_bias_ = vector(*model_.head_bias, vocab);
    rows_ = std::max<std::int64_t>(1, kLogitBytes / (vocab * static_cast<std::int64_t>(sizeof(float))));
    normed_ = DeviceMatrix(memory, compute, rows_, hidden, "the final norm");
    logits_ = DeviceMatrix(memory, DType::kF32, rows_, vocab, "logits");
    check(cudaStreamSynchronize(stream));
  }

  std::int64_t rows() const { return rows_; }  // most rows a call

  // hidden [N, hidden] F32, targets [N] and log_probs [N] on the device
  void log_probs(DeviceView hidden, const std::int32_t* targets, double* log_probs) {
    const DeviceView x = normed_.view().row_block(0, hidden.rows);
    if (model_.final_norm) {
      NormArgs args;
      args.x = static_cast<const float*>(hidden.data);
      args.gain = gain_.as<float>();
      args.bias = bias_.as<float>();
      args.layer = model_.norm == NormKind::kLayer;
      args.gain_offset = args.layer ? 0.0f : model_.norm_gain_offset;
      args.eps = model_.norm_eps;
      args.rows = hidden.rows;
      args.cols = hidden.cols;
      norm(args, x.data, compute_, stream_);
    } else {
      convert(hidden.data, DType::kF32, x.data, compute_, hidden.numel(), stream_);
    }
    const DeviceView logits = logits_.view().row_block(0, hidden.rows);
    products_.linear(x, weight_.view(), head_bias_.data(), logits);
    target_log_probs(static_cast<const float*>(logits.data), hidden.rows, logits.cols, model_.final_softcap,
                     targets, log_probs, stream_);
  }

 private:
  const ModelConfig& model_;
  Products& products_;
  DType compute_;
  cudaStream_t stream_;
  std::int64_t rows_ = 0;
  DeviceMatrix weight_, normed_, logits_;
  DeviceBuffer gain_, bias_, head_bias_;
};

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
  Evaluator(const Model& model, const ForwardOptions& options, const DeviceOptions& device)
      : model_(model),
        options_(options),
        memory_(device.memory_bytes),
        compute_(options.compute == ComputeType::kBF16 ? DType::kBF16 : DType::kF32),
        products_(memory_, stream_),
        head_(memory_, products_, model, compute_, stream_),
        loader_(model, device.index) {
    for (int i = 0; i < 2; ++i) slots_.emplace_back(memory_, model, compute_);
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
        sums.push_back(
            loss(part.window(w), hidden.view().row_block(w * windows.seqlen, windows.seqlen), first_target));
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
      block.refresh(stream_);
      for_passes(part, [&](std::int64_t row, std::int64_t rows) {
        forward.run(block, hidden.view().row_block(row, rows));
      });
      step();
    }
  }

  // Row r predicts token r + 1; tokens from first_target on are scored.
  double loss(std::span<const std::int32_t> ids, DeviceView hidden, std::int64_t first_target) {
    const std::int64_t count = hidden.rows - first_target;
    const std::vector<std::int32_t> wanted(ids.begin() + first_target, ids.end());
    const DeviceBuffer targets = upload(memory_, std::span<const std::int32_t>(wanted), "targets", stream_);
    const DeviceBuffer log_probs(memory_, static_cast<std::uint64_t>(count) * sizeof(double), "losses");
    for (std::int64_t row = 0; row < count; row += head_.rows()) {
      const std::int64_t rows = std::min(head_.rows(), count - row);
      head_.log_probs(hidden.row_block(first_target - 1 + row, rows), targets.as<std::int32_t>() + row,
                      log_probs.as<double>() + row);
    }
    std::vector<double> host(static_cast<std::size_t>(count));
    check(cudaMemcpyAsync(host.data(), log_probs.data(), host.size() * sizeof(double), cudaMemcpyDeviceToHost,
                          stream_));
    stream_.synchronize();
    return -std::accumulate(host.begin(), host.end(), 0.0);
  }

  const Model& model_;
  const ForwardOptions& options_;
  DeviceMemory memory_;
  Stream stream_;
  DType compute_;
  Products products_;
  DeviceHead head_;
  BlockLoader loader_;
  std::vector<BlockWeights> slots_;
};

}  // namespace

PerplexityResult perplexity(const Model& model, std::span<const ScoredWindows> parts,
                            const ForwardOptions& options, const DeviceOptions& device) {
  if (has_packed_tensors(model.checkpoint())) {
    bad_input("{}: a packed model runs on the CPU only; use --device cpu, or swiftprune unpack",
              model.checkpoint().folder().string());
  }
  check(cudaSetDevice(device.index));
  Evaluator evaluator(model, options, device);
  return swiftprune::perplexity_of(model, parts,
                                   [&](const ScoredWindows& part) { return evaluator.window_sums(part); });
}

}  // namespace swiftprune::cuda
