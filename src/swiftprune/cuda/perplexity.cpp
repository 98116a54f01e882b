#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

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

}  // namespace

PerplexityResult perplexity(const Model& model, const TokenWindows& windows, const ForwardOptions& options,
                            const DeviceOptions& device) {
  expect(windows.seqlen >= 2 && windows.num_windows() > 0, "perplexity: windows of two tokens or more");
  if (has_packed_tensors(model.checkpoint())) {
    bad_input("{}: a packed model runs on the CPU only; use --device cpu, or swiftprune unpack",
              model.checkpoint().folder().string());
  }
  check(cudaSetDevice(device.index));
  DeviceMemory memory(device.memory_bytes);
  const Stream stream;
  Products products(memory, stream);
  const DType compute = options.compute == ComputeType::kBF16 ? DType::kBF16 : DType::kF32;
  std::vector<BlockWeights> slots;
  for (int i = 0; i < 2; ++i) slots.emplace_back(memory, model, compute);
  BlockForward forward(memory, products, model, rows_per_pass(windows), windows.seqlen, compute, stream);
  DeviceHead head(memory, products, model, compute, stream);
  const std::int64_t seqlen = windows.seqlen;
  DeviceBuffer targets(memory, static_cast<std::uint64_t>(seqlen) * sizeof(std::int32_t), "targets");
  DeviceBuffer log_probs(memory, static_cast<std::uint64_t>(seqlen) * sizeof(double), "losses");
  BlockLoader loader(model, device.index);

  PerplexityResult result;
  result.window_nll.assign(static_cast<std::size_t>(windows.num_windows()), 0.0);
  const std::int64_t num_layers = model.config().num_layers();
  const std::int64_t group = windows_at_once(memory, model, windows);
  std::int64_t done = 0;
  for (std::int64_t first = 0; first < windows.num_windows(); first += group) {
    const TokenWindows part = part_of(windows, first, std::min(group, windows.num_windows() - first));
    const DeviceMatrix hidden = embed(memory, model, part, stream);
    loader.start(0, slots[0]);
    for (std::int64_t layer = 0; layer < num_layers; ++layer) {
      BlockWeights& block = slots[static_cast<std::size_t>(layer % 2)];
      loader.finish();
      stream.synchronize();  // the block before may still be running on the weights that are replaced now
      if (layer + 1 < num_layers) loader.start(layer + 1, slots[static_cast<std::size_t>((layer + 1) % 2)]);
      block.refresh(stream);
      for_passes(part, [&](std::int64_t row, std::int64_t rows) {
        forward.run(block, hidden.view().row_block(row, rows));
      });
      done += part.num_windows();
      if (options.progress) options.progress("forward", done, windows.num_windows() * num_layers);
    }
    for (std::int64_t w = 0; w < part.num_windows(); ++w) {
      // Row r predicts token r + 1; the last row of a window predicts nothing that is known.
      const auto ids = part.window(w);
      check(cudaMemcpyAsync(targets.data(), ids.data() + 1,
                            static_cast<std::size_t>(seqlen - 1) * sizeof(std::int32_t),
                            cudaMemcpyHostToDevice, stream));
      for (std::int64_t row = 0; row < seqlen - 1; row += head.rows()) {
        const std::int64_t rows = std::min(head.rows(), seqlen - 1 - row);
        head.log_probs(hidden.view().row_block(w * seqlen + row, rows), targets.as<std::int32_t>() + row,
                       log_probs.as<double>() + row);
      }
      std::vector<double> host(static_cast<std::size_t>(seqlen - 1));
      check(cudaMemcpyAsync(host.data(), log_probs.data(), host.size() * sizeof(double),
                            cudaMemcpyDeviceToHost, stream));
      stream.synchronize();
      result.window_nll[static_cast<std::size_t>(first + w)] =
          -std::accumulate(host.begin(), host.end(), 0.0) / static_cast<double>(seqlen - 1);
    }
  }
  result.num_tokens = windows.num_windows() * (seqlen - 1);
  result.mean_nll = std::accumulate(result.window_nll.begin(), result.window_nll.end(), 0.0) /
                    static_cast<double>(windows.num_windows());
  result.perplexity = std::exp(result.mean_nll);
  return result;
}

}  // namespace swiftprune::cuda
