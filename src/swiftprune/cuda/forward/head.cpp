#include "swiftprune/cuda/forward/head.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "swiftprune/cuda/forward/attention_kernels.h"
#include "swiftprune/cuda/forward/block.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/sparse/packed_weight.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/sparse/packed_checkpoint.h"
#include "swiftprune/sparse/packed_header.h"

namespace swiftprune::cuda {
namespace {

constexpr std::int64_t kLogitBytes = std::int64_t{256} << 20;  // logits in memory at a time

}  // namespace

DType compute_dtype(const Model& model, ComputeType compute) {
  bool grids = false;
  for (const BlockWeight& weight : block_weights(model.config())) {
    const auto packed = find_packed_shape(model.checkpoint(), weight.name());
    if (!packed) continue;
    if (!is_grid(packed->kind)) return packed->dtype;
    grids = true;
  }
  return grids || compute == ComputeType::kBF16 ? DType::kBF16 : DType::kF32;
}

DeviceMatrix load_token_table(DeviceMemory& memory, const Model& model, const std::string& name,
                              DType compute, cudaStream_t stream) {
  const Checkpoint& checkpoint = model.checkpoint();
  const std::int64_t vocab = model.config().vocab_size, hidden = model.config().hidden_size;
  DeviceMatrix table(memory, compute, vocab, hidden, name);
  const auto load = [&](const void* values, DType dtype) {
    DeviceBuffer raw;
    void* target = table.view().data;
    const auto bytes = static_cast<std::uint64_t>(vocab * hidden * size_of(dtype));
    if (dtype != compute) {
      raw = DeviceBuffer(memory, bytes, name);
      target = raw.data();
    }
    check(cudaMemcpyAsync(target, values, bytes, cudaMemcpyHostToDevice, stream));
    if (dtype != compute) convert(raw.data(), dtype, table.view().data, compute, vocab * hidden, stream);
    check(cudaStreamSynchronize(stream));  // `values` and raw live until here
  };
  if (const auto packed = find_packed(checkpoint, name, vocab, hidden)) {
    const Matrix values = unpack_f32(*packed);
    load(values.data(), DType::kF32);
  } else {
    const TensorInfo& tensor = checkpoint.at(name);
    load(checkpoint.bytes(tensor).data(), tensor.dtype);
  }
  return table;
}

DeviceFinalNorm::DeviceFinalNorm(DeviceMemory& memory, const Model& model, cudaStream_t stream)
    : model_(model.config()), stream_(stream) {
  if (!model_.final_norm) return;
  const auto load = [&](const std::string& name) {
    if (name.empty()) return DeviceBuffer();
    const std::vector<float> values = model.checkpoint().load_vector(name, model_.hidden_size);
    DeviceBuffer buffer = upload(memory, std::span<const float>(values), "the final norm", stream);
    check(cudaStreamSynchronize(stream));  // `values` live until here
    return buffer;
  };
  gain_ = load(model_.final_norm->gain);
  bias_ = load(model_.final_norm->bias);
}

void DeviceFinalNorm::apply(DeviceView hidden, void* y, DType y_dtype) const {
  if (!model_.final_norm) return to_compute(hidden, view_of(y, y_dtype, hidden.rows, hidden.cols), stream_);
  norm(norm_args(model_, gain_.as<float>(), bias_.as<float>(), hidden), y, y_dtype, stream_);
}

void DeviceFinalNorm::apply(DeviceView hidden) const {
  if (!model_.final_norm) return;
  norm(norm_args(model_, gain_.as<float>(), bias_.as<float>(), hidden), hidden.data, DType::kF32, stream_,
       hidden.stride);
}

DeviceHead::DeviceHead(DeviceMemory& memory, Products& products, const Model& model, DType compute,
                       std::int64_t rows, cudaStream_t stream)
    : memory_(memory),
      model_(model.config()),
      products_(products),
      compute_(compute),
      stream_(stream),
      rows_(rows),
      norm_(memory, model, stream) {
  const std::int64_t vocab = model_.vocab_size;
  const std::int64_t hidden = model_.hidden_size;
  weight_ = load_token_table(memory, model, model_.head, compute, stream);
  if (model_.head_bias) {
    std::vector<float> bias = model.checkpoint().load_vector(*model_.head_bias, vocab);
    for (float& value : bias) value *= model_.logit_scale;
    head_bias_ = upload(memory, std::span<const float>(bias), "the output projection", stream);
    check(cudaStreamSynchronize(stream));  // `bias` lives until here
  }
  if (rows_ == 0) rows_ = default_rows(vocab);
  normed_ = DeviceMatrix(memory, compute, rows_, hidden, "the final norm");
  logits_ = DeviceMatrix(memory, DType::kF32, rows_, vocab, "logits");
  check(cudaStreamSynchronize(stream));
}

std::int64_t DeviceHead::default_rows(std::int64_t vocab_size) {
  return std::max<std::int64_t>(1, kLogitBytes / (vocab_size * static_cast<std::int64_t>(sizeof(float))));
}

DeviceView DeviceHead::project(DeviceView hidden) {
  const DeviceView x = normed_.view().row_block(0, hidden.rows);
  norm_.apply(hidden, x.data, compute_);
  const DeviceView logits = logits_of(hidden.rows);
  if (model_.logit_scale == 1.0f) {
    linear_at_rest(products_, x, weight_.view(), head_bias_.data(), logits, false, stream_);
    return logits;
  }
  products_.run({.a = x,
                 .b = weight_.view(),
                 .c = logits,
                 .b_transposed = true,
                 .alpha = model_.logit_scale,
                 .bias = head_bias_.data()});
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

double DeviceHead::loss(std::span<const std::int32_t> ids, DeviceView hidden, std::int64_t first_target) {
  const std::int64_t count = hidden.rows - first_target;
  const DeviceBuffer targets =
      upload(memory_, ids.subspan(static_cast<std::size_t>(first_target)), "targets", stream_);
  const DeviceBuffer log_probs(memory_, static_cast<std::uint64_t>(count) * sizeof(double), "losses");
  for (std::int64_t row = 0; row < count; row += rows_) {
    const std::int64_t rows = std::min(rows_, count - row);
    this->log_probs(hidden.row_block(first_target - 1 + row, rows), targets.as<std::int32_t>() + row,
                    log_probs.as<double>() + row);
  }
  std::vector<double> host(static_cast<std::size_t>(count));
  check(cudaMemcpyAsync(host.data(), log_probs.data(), host.size() * sizeof(double), cudaMemcpyDeviceToHost,
                        stream_));
  check(cudaStreamSynchronize(stream_));
  return -std::accumulate(host.begin(), host.end(), 0.0);
}

}  // namespace swiftprune::cuda
