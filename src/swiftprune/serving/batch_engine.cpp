#include "swiftprune/serving/batch_engine.h"

#include <algorithm>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {

BatchEngine::BatchEngine(const Model& model, const Backend& backend, ComputeType compute, std::int64_t lanes,
                         std::int64_t capacity, Autotuner* tuner)
    : model_(model),
      backend_(backend),
      num_lanes_(lanes),
      capacity_(capacity),
      ropes_(model.rope_tables(capacity)),
      head_(model.load_head(backend, compute, WeightUse::kCompact)),
      positions_(static_cast<std::size_t>(lanes), 0) {
  expect(lanes > 0 && capacity > 0, "BatchEngine: room for sequences");
  const bool packed = has_packed_tensors(model.checkpoint());
  const std::int64_t kv_size = model.config().num_kv_heads * model.config().head_size;
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
    blocks_.push_back(model.load_block(layer, WeightUse::kCompact));
    if (tuner != nullptr) blocks_.back().tune(*tuner, lanes, compute);
    blocks_.back().pack(backend, compute);
    if (!packed) model.release_block(layer);
    std::vector<KvCache> caches;
    for (std::int64_t lane = 0; lane < lanes; ++lane)
      caches.push_back({Matrix(capacity, kv_size), Matrix(capacity, kv_size)});
    caches_.push_back(std::move(caches));
  }
}

void BatchEngine::swap(std::int64_t a, std::int64_t b) {
  const auto i = static_cast<std::size_t>(a);
  const auto j = static_cast<std::size_t>(b);
  for (std::vector<KvCache>& layer : caches_) std::swap(layer[i], layer[j]);
  std::swap(positions_[i], positions_[j]);
}

const Matrix& BatchEngine::prefill(std::int64_t lane, std::span<const std::int32_t> ids) {
  const auto index = static_cast<std::size_t>(lane);
  const auto length = static_cast<std::int64_t>(ids.size());
  expect(length > 0 && positions_[index] + length <= capacity_, "prefill: tokens that fit");
  Matrix hidden(length, model_.config().hidden_size);
  model_.embed(ids, length, positions_[index], hidden.view());
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    BlockForwardOptions options;
    options.sequence_length = length;
    options.first_position = positions_[index];
    options.caches = std::span(caches_[layer]).subspan(index, 1);
    blocks_[layer].forward(backend_, ropes_, hidden.view(), options);
  }
  positions_[index] += length;
  Matrix last(1, hidden.cols());
  std::copy_n(hidden.row(length - 1), hidden.cols(), last.row(0));
  return head(last);
}

const Matrix& BatchEngine::decode(std::span<const std::int32_t> ids) {
  const auto n = static_cast<std::int64_t>(ids.size());
  expect(n > 0 && n <= num_lanes_, "decode: a token for each lane in use");
  Matrix hidden(n, model_.config().hidden_size);
  for (std::int64_t lane = 0; lane < n; ++lane) {
    expect(position(lane) < capacity_, "decode: tokens that fit");
    model_.embed(ids.subspan(static_cast<std::size_t>(lane), 1), 1, position(lane),
                 hidden.view().row_block(lane, 1));
  }
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    BlockForwardOptions options;
    options.sequence_length = 1;
    options.first_positions = std::span(positions_).first(ids.size());
    options.caches = std::span(caches_[layer]).first(ids.size());
    blocks_[layer].forward(backend_, ropes_, hidden.view(), options);
  }
  for (std::int64_t lane = 0; lane < n; ++lane) ++positions_[static_cast<std::size_t>(lane)];
  return head(hidden);
}

const Matrix& BatchEngine::head(const Matrix& hidden) {
  if (logits_.rows() != hidden.rows()) logits_ = Matrix(hidden.rows(), model_.config().vocab_size);
  head_.logits(backend_, hidden.view(), logits_.view());
  return logits_;
}

}  // namespace swiftprune
