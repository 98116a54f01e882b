#include "swiftprune/cuda/head.h"

#include <algorithm>

#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune::cuda {
namespace {

constexpr std::int64_t kLogitBytes = std::int64_t{256} << 20;  // logits in memory at a time

}  // namespace

DType compute_dtype(const Model& model, ComputeType compute) {
  for (const BlockConfig& block : model.config().blocks) {
    for (const LinearTensors& linear : linears_of(block)) {
      const auto packed =
          find_packed(model.checkpoint(), linear.name + ".weight", linear.outputs, linear.inputs);
      if (packed) return packed->shape().dtype;
    }
  }
  return compute == ComputeType::kBF16 ? DType::kBF16 : DType::kF32;
}

DeviceHead::DeviceHead(DeviceMemory& memory, Products& products, const Model& model, DType compute,
                       std::int64_t rows, cudaStream_t stream)
    : model_(model.config()), products_(products), compute_(compute), stream_(stream), rows_(rows) {
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
  if (model_.final_norm && !model_.final_norm->gain.empty()) gain_ = vector(model_.final_norm->gain, hidden);
  if (model_.final_norm && !model_.final_norm->bias.empty()) bias_ = vector(model_.final_norm->bias, hidden);
  if (model_.head_bias) head_bias_ = vector(*model_.head_bias, vocab);
  if (rows_ == 0) {
    rows_ = std::max<std::int64_t>(1, kLogitBytes / (vocab * static_cast<std::int64_t>(sizeof(float))));
  }
  normed_ = DeviceMatrix(memory, compute, rows_, hidden, "the final norm");
  logits_ = DeviceMatrix(memory, DType::kF32, rows_, vocab, "logits");
  check(cudaStreamSynchronize(stream));
}

DeviceView DeviceHead::project(DeviceView hidden) {
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
  const DeviceView logits = logits_of(hidden.rows);
  products_.linear(x, weight_.view(), head_bias_.data(), logits);
  return logits;
}

DeviceView DeviceHead::logits(DeviceView hidden) {
  const DeviceView y = project(hidden);
  if (model_.final_softcap > 0.0f)
    soft_cap(static_cast<float*>(y.data), y.numel(), model_.final_softcap, stream_);
  return y;
}

void DeviceHead::log_probs(DeviceView hidden, const std::int32_t* targets, double* log_probs) {
  const DeviceView y = project(hidden);
  target_log_probs(static_cast<const float*>(y.data), hidden.rows, y.cols, model_.final_softcap, targets,
                   log_probs, stream_);
}

}  // namespace swiftprune::cuda
