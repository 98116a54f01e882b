// The model in device memory, keys and values cached there; one sequence at a time.
#include <algorithm>
#include <cmath>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/cuda/device.h"
#include "swiftprune/cuda/head.h"
#include "swiftprune/cuda/streaming.h"

namespace swiftprune::cuda {
namespace {

constexpr std::int64_t kPieceTokens = 2048;  // of a prompt at a time

}  // namespace

struct DeviceGenerator::State {
  State(const Model& of, ComputeType compute, std::int64_t max_positions, const DeviceOptions& device)
      : model(of),
        capacity(max_positions),
        memory(device.memory_bytes),
        dtype(compute_dtype(of, compute)),
        products(memory, stream),
        head(memory, products, of, dtype, 1, stream),
        forward(memory, products, of, std::min(capacity, kPieceTokens), capacity, dtype, stream),
        logits(1, of.config().vocab_size) {
    const ModelConfig& config = of.config();
    BlockLoader loader(of, device.index);
    blocks.reserve(static_cast<std::size_t>(config.num_layers()));
    for (std::int64_t layer = 0; layer < config.num_layers(); ++layer) {
      BlockWeights& block = blocks.emplace_back(memory, of, dtype);
      loader.start(layer, block);
      loader.finish();
      block.load_packed(memory, stream);
      block.refresh(stream);
      const std::int64_t width = config.num_kv_heads * config.head_size;
      caches.push_back({DeviceMatrix(memory, dtype, capacity, width, "cached keys"),
                        DeviceMatrix(memory, dtype, capacity, width, "cached values")});
    }
    hidden = DeviceMatrix(memory, DType::kF32, forward.rows(), config.hidden_size, "hidden states");
  }

  // A piece of one sequence, at most forward.rows() tokens.
  void append(std::span<const std::int32_t> ids) {
    const auto length = static_cast<std::int64_t>(ids.size());
    Matrix embedded(length, model.config().hidden_size);
    model.embed(ids, length, position, embedded.view());
    const DeviceView rows = hidden.view().row_block(0, length);
    check(cudaMemcpyAsync(rows.data, embedded.values().data(), embedded.values().size_bytes(),
                          cudaMemcpyHostToDevice, stream));
    for (std::size_t layer = 0; layer < blocks.size(); ++layer) {
      forward.run_cached(blocks[layer], rows, caches[layer], position);
    }
    stream.synchronize();  // `embedded` goes
    position += length;
  }

  const Model& model;
  std::int64_t capacity;
  std::int64_t position = 0;
  DeviceMemory memory;
  Stream stream;
  DType dtype;
  Products products;
  DeviceHead head;
  BlockForward forward;
  std::vector<BlockWeights> blocks;
  std::vector<DeviceCache> caches;
  DeviceMatrix hidden;
  Matrix logits;
};

DeviceGenerator::DeviceGenerator(const Model& model, ComputeType compute, std::int64_t capacity,
                                 const DeviceOptions& device) {
  check(cudaSetDevice(device.index));
  state_ = std::make_unique<State>(model, compute, capacity, device);
}
DeviceGenerator::~DeviceGenerator() = default;

const Matrix& DeviceGenerator::append(std::span<const std::int32_t> ids) {
  check_interrupt();
  State& state = *state_;
  expect(!ids.empty() && state.position + std::ssize(ids) <= state.capacity, "append: tokens that fit");
  const auto piece = static_cast<std::size_t>(state.forward.rows());
  std::size_t last = 0;
  for (std::size_t first = 0; first < ids.size(); first += piece) {
    last = std::min(piece, ids.size() - first);
    state.append(ids.subspan(first, last));
  }
  const DeviceView logits =
      state.head.logits(state.hidden.view().row_block(static_cast<std::int64_t>(last) - 1, 1));
  check(cudaMemcpyAsync(state.logits.values().data(), logits.data, state.logits.values().size_bytes(),
                        cudaMemcpyDeviceToHost, state.stream));
  state.stream.synchronize();
  const float cap = state.model.config().final_softcap;
  if (cap > 0.0f) {
    for (float& logit : state.logits.values()) logit = cap * std::tanh(logit / cap);
  }
  return state.logits;
}

}  // namespace swiftprune::cuda
