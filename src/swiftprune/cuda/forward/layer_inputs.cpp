#include "swiftprune/cuda/forward/layer_inputs.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "swiftprune/core/parallel.h"
#include "swiftprune/cuda/forward/block.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/forward/head.h"
#include "swiftprune/cuda/forward/layer_input_kernels.h"
#include "swiftprune/cuda/sparse/packed_weight.h"
#include "swiftprune/model/norm_gain.h"

namespace swiftprune::cuda {
namespace {

constexpr std::int64_t kTokensAtOnce = 16384;  // of a table that is made
constexpr std::string_view kWhat = "what tokens add to a block";

}  // namespace

DeviceLayerInputs::DeviceLayerInputs(DeviceMemory& memory, Products& products, const Model& model,
                                     std::int64_t rows, DType compute, cudaStream_t stream)
    : memory_(memory),
      products_(products),
      model_(model),
      config_(model.config()),
      size_(config_.layer_embeddings->size),
      compute_(compute),
      stream_(stream),
      embedding_(load_token_table(memory, model, config_.embedding, compute, stream)),
      gate_(memory, compute, rows, size_, kWhat) {}

// The block's columns of the table come from the host, some tokens at a time.
DeviceMatrix DeviceLayerInputs::embed(std::int64_t layer) {
  const LayerEmbeddings& shared = *config_.layer_embeddings;
  const Checkpoint& checkpoint = model_.checkpoint();
  const TensorInfo& table = checkpoint.at(shared.table);
  const std::int64_t vocab = config_.vocab_size, element = size_of(table.dtype);
  Matrix rows_of_block(size_, config_.hidden_size);
  checkpoint.load_rows(checkpoint.at(shared.projection), layer * size_, rows_of_block.view());
  const DeviceMatrix projection = uploaded(memory_, rows_of_block, compute_, kWhat, stream_);
  std::vector<float> gain = load_gain(checkpoint, shared.norm, size_);
  const DeviceBuffer device_gain = upload(memory_, std::span<const float>(gain), kWhat, stream_);

  DeviceMatrix tokens(memory_, compute_, vocab, size_, kWhat);
  const std::int64_t most = std::min(kTokensAtOnce, vocab);
  const DeviceMatrix projected(memory_, DType::kF32, most, size_, kWhat);
  const auto bytes = static_cast<std::uint64_t>(most * size_ * element);
  const DeviceBuffer columns(memory_, bytes, kWhat);
  const PinnedBuffer host(bytes);
  const std::byte* all = checkpoint.bytes(table).data();
  for (std::int64_t first = 0; first < vocab; first += most) {
    const std::int64_t count = std::min(most, vocab - first);
    check(cudaStreamSynchronize(stream_));  // `host` is read until here
    parallel_for(count, 256, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t n = begin; n < end; ++n) {
        std::memcpy(host.data() + n * size_ * element,
                    all + ((first + n) * table.shape[1] + layer * size_) * element,
                    static_cast<std::size_t>(size_ * element));
      }
    });
    check(cudaMemcpyAsync(columns.data(), host.data(), static_cast<std::size_t>(count * size_ * element),
                          cudaMemcpyHostToDevice, stream_));
    const DeviceView y = projected.view().row_block(0, count);
    products_.run({.a = embedding_.view().row_block(first, count),
                   .b = projection.view(),
                   .c = y,
                   .b_transposed = true,
                   .alpha = config_.embedding_scale / std::sqrt(static_cast<float>(config_.hidden_size))});
    norm(norm_args(config_, device_gain.as<float>(), nullptr, y), y.data, DType::kF32, stream_);
    average_with_table({.x = static_cast<const float*>(y.data),
                        .table = columns.data(),
                        .table_dtype = table.dtype,
                        .y = tokens.view().row(first),
                        .y_dtype = compute_,
                        .scale = std::sqrt(static_cast<float>(size_)),
                        .n = y.numel()},
                       stream_);
  }
  check(cudaStreamSynchronize(stream_));  // what is made here ends here
  return tokens;
}

DeviceLayerInputs::Layer DeviceLayerInputs::make(std::int64_t layer) {
  const LayerInput& own = *config_.blocks[static_cast<std::size_t>(layer)].layer_input;
  const Checkpoint& checkpoint = model_.checkpoint();
  Layer made;
  made.tokens = embed(layer);
  const auto matrix = [&](const std::string& name, std::int64_t rows, std::int64_t cols) {
    return uploaded(memory_, checkpoint.load_matrix(name, rows, cols), compute_, kWhat, stream_);
  };
  made.gate = matrix(own.gate, size_, config_.hidden_size);
  made.projection = matrix(own.projection, config_.hidden_size, size_);
  const std::vector<float> gain = load_gain(checkpoint, own.norm, config_.hidden_size);
  made.gain = upload(memory_, std::span<const float>(gain), kWhat, stream_);
  check(cudaStreamSynchronize(stream_));  // `gain` lives until here
  return made;
}

const DeviceLayerInputs::Layer& DeviceLayerInputs::load(std::int64_t layer) {
  return layers_.get(layer, stream_, [&] { return make(layer); });
}

void DeviceLayerInputs::load_all() {
  layers_.keep_all();
  for (std::int64_t layer = 0; layer < config_.num_layers(); ++layer) load(layer);
}

void DeviceLayerInputs::add(std::int64_t layer, DeviceView rows, DeviceView x, DeviceView y) {
  const Layer& own = load(layer);
  const DeviceView hidden = hidden_of(config_, rows);
  const DeviceView gate = gate_.view().row_block(0, rows.rows);
  to_compute(hidden, x, stream_);
  linear_at_rest(products_, x, own.gate.view(), nullptr, gate, false, stream_);
  TokenGateArgs args;
  args.gate = gate.data;
  args.tokens = own.tokens.view().data;
  args.dtype = compute_;
  args.ids = static_cast<const float*>(rows.data) + config_.hidden_size;
  args.id_stride = rows.stride;
  args.rows = rows.rows;
  args.size = size_;
  gate_by_tokens(kind_of(config_.activation), args, stream_);
  linear_at_rest(products_, gate, own.projection.view(), nullptr, y, false, stream_);
  norm_add(norm_args(config_, own.gain.as<float>(), nullptr, y), 1.0f, static_cast<float*>(hidden.data),
           stream_, hidden.stride);
}

}  // namespace swiftprune::cuda
