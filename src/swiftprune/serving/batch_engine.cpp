#include "swiftprune/serving/batch_engine.h"

#include <algorithm>
#include <utility>

#include "swiftprune/core/error.h"

namespace swiftprune {

BatchEngine::BatchEngine(const Model& model, const Backend& backend, ComputeType compute, std::int64_t lanes,
                         std::int64_t capacity, Autotuner* tuner)
    : model_(model),
      backend_(backend),
      num_lanes_(lanes),
      capacity_(capacity),
      resident_(model, backend, compute, lanes, capacity, tuner),
      positions_(static_cast<std::size_t>(lanes), 0) {
  expect(lanes > 0 && capacity > 0, "BatchEngine: room for sequences");
}

std::int64_t BatchEngine::keep(std::int64_t lane, std::int64_t positions) {
  expect(positions >= 0 && positions <= position(lane), "keep: positions that the lane has");
  return positions_[static_cast<std::size_t>(lane)] = model_.config().has_recurrent_blocks() ? 0 : positions;
}

void BatchEngine::swap(std::int64_t a, std::int64_t b) {
  const auto i = static_cast<std::size_t>(a);
  const auto j = static_cast<std::size_t>(b);
  for (std::vector<KvCache>& layer : resident_.caches) std::swap(layer[i], layer[j]);
  std::swap(positions_[i], positions_[j]);
}

Matrix BatchEngine::run_prompt(std::int64_t lane, std::span<const std::int32_t> ids) {
  const auto index = static_cast<std::size_t>(lane);
  const auto length = static_cast<std::int64_t>(ids.size());
  expect(length > 0 && positions_[index] + length <= capacity_, "prefill: tokens that fit");
  Matrix hidden(length, model_.config().row_size());
  model_.embed(ids, length, positions_[index], hidden.view());
  for (std::size_t layer = 0; layer < resident_.blocks.size(); ++layer) {
    BlockForwardOptions options;
    options.sequence_length = length;
    options.first_position = positions_[index];
    options.caches = std::span(resident_.caches[layer]).subspan(index, 1);
    resident_.blocks[layer].forward(backend_, resident_.ropes, hidden.view(), options);
  }
  positions_[index] += length;
  return hidden;
}

ConstMatrixView BatchEngine::prefill_all(std::int64_t lane, std::span<const std::int32_t> ids) {
  return head(run_prompt(lane, ids));
}

ConstMatrixView BatchEngine::prefill(std::int64_t lane, std::span<const std::int32_t> ids) {
  const Matrix hidden = run_prompt(lane, ids);
  Matrix last(1, hidden.cols());
  std::copy_n(hidden.row(hidden.rows() - 1), hidden.cols(), last.row(0));
  return head(last);
}

ConstMatrixView BatchEngine::decode(std::span<const std::int32_t> ids) {
  const auto n = static_cast<std::int64_t>(ids.size());
  expect(n > 0 && n <= num_lanes_, "decode: a token for each lane in use");
  Matrix hidden(n, model_.config().row_size());
  for (std::int64_t lane = 0; lane < n; ++lane) {
    expect(position(lane) < capacity_, "decode: tokens that fit");
    model_.embed(ids.subspan(static_cast<std::size_t>(lane), 1), 1, position(lane),
                 hidden.view().row_block(lane, 1));
  }
  for (std::size_t layer = 0; layer < resident_.blocks.size(); ++layer) {
    BlockForwardOptions options;
    options.sequence_length = 1;
    options.first_positions = std::span(positions_).first(ids.size());
    options.caches = std::span(resident_.caches[layer]).first(ids.size());
    resident_.blocks[layer].forward(backend_, resident_.ropes, hidden.view(), options);
  }
  for (std::int64_t lane = 0; lane < n; ++lane) ++positions_[static_cast<std::size_t>(lane)];
  return head(hidden);
}

ConstMatrixView BatchEngine::head(const Matrix& hidden) {
  if (logits_.rows() != hidden.rows()) logits_ = Matrix(hidden.rows(), model_.config().vocab_size);
  resident_.head.logits(backend_, hidden.view(), logits_.view());
  return logits_.view();
}

}  // namespace swiftprune
