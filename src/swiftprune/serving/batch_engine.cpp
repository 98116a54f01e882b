#include "swiftprune/serving/batch_engine.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

LanePages lanes_of_pages(std::int64_t lanes, std::int64_t pages) {
  LanePages result(lanes);
  result.add_pages(pages);
  return result;
}

}  // namespace

BatchEngine::BatchEngine(const Model& model, const Backend& backend, ComputeType compute, std::int64_t lanes,
                         std::int64_t capacity, Autotuner* tuner, std::uint64_t cache_bytes)
    : model_(model),
      backend_(backend),
      num_lanes_(lanes),
      capacity_(capacity),
      page_bytes_(LanePages::kPositions * model.config().cache_size() *
                  static_cast<std::int64_t>(sizeof(float))),
      pages_(lanes_of_pages(lanes, cache_pages(cache_bytes, page_bytes_,
                                               lanes * LanePages::pages_for(capacity), "--cache-memory"))),
      resident_(model, backend, compute, lanes, capacity, tuner),
      positions_(static_cast<std::size_t>(lanes), 0),
      page_lanes_(static_cast<std::size_t>(lanes)) {
  expect(lanes > 0 && capacity > 0, "BatchEngine: room for sequences");
  std::iota(page_lanes_.begin(), page_lanes_.end(), 0);
  capacity_ = std::min(capacity, pages_.num_pages() * LanePages::kPositions);
}

std::int64_t BatchEngine::room(std::int64_t lane) const {
  return std::ssize(pages_.of(page_lanes_[static_cast<std::size_t>(lane)])) * LanePages::kPositions;
}

void BatchEngine::release_from(std::int64_t lane, std::int64_t position) {
  for (std::vector<KvCache>& layer : resident_.caches) {
    layer[static_cast<std::size_t>(lane)].keys.release_from(position);
    layer[static_cast<std::size_t>(lane)].values.release_from(position);
  }
}

std::optional<std::int64_t> BatchEngine::start(const LaneStart& start) {
  const auto lane = static_cast<std::size_t>(start.lane);
  const auto source = static_cast<std::size_t>(start.source);
  const std::int64_t shared = model_.config().has_recurrent_blocks() ? 0 : start.shared;
  expect(shared <= positions_[source] && start.positions <= capacity_, "start: positions that there are");
  // What it copies it has for itself.
  const std::int64_t pages = page_lanes_[lane];
  const LaneStart own{pages, pages, lane == source ? shared : 0, start.positions};
  if (pages_.lacking(own) > 0) return std::nullopt;
  pages_.start(own);
  if (lane != source && shared > 0) {
    parallel_for(std::ssize(resident_.caches), 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t layer = first; layer < last; ++layer) {
        std::vector<KvCache>& caches = resident_.caches[static_cast<std::size_t>(layer)];
        caches[lane].keys.copy_rows(caches[source].keys, shared);
        caches[lane].values.copy_rows(caches[source].values, shared);
      }
    });
  }
  release_from(start.lane, shared);
  return positions_[lane] = shared;
}

void BatchEngine::trim(std::int64_t lane) {
  pages_.trim(page_lanes_[static_cast<std::size_t>(lane)], position(lane));
}

void BatchEngine::drop(std::int64_t lane) {
  positions_[static_cast<std::size_t>(lane)] = 0;
  trim(lane);
  release_from(lane, 0);
}

CacheMemory BatchEngine::cache_memory() const {
  return {pages_.num_used() * page_bytes_, pages_.num_pages() * page_bytes_};
}

void BatchEngine::swap(std::int64_t a, std::int64_t b) {
  const auto i = static_cast<std::size_t>(a);
  const auto j = static_cast<std::size_t>(b);
  for (std::vector<KvCache>& layer : resident_.caches) std::swap(layer[i], layer[j]);
  std::swap(positions_[i], positions_[j]);
  std::swap(page_lanes_[i], page_lanes_[j]);
}

NewTokens BatchEngine::next(std::int64_t lane, std::span<const std::int32_t> ids) const {
  expect(!ids.empty() && position(lane) + std::ssize(ids) <= room(lane), "a lane's tokens fit");
  return {.sequence = lane, .position = position(lane), .ids = ids};
}

Matrix BatchEngine::run(std::span<const NewTokens> tokens) {
  Matrix hidden = resident_.forward(model_, backend_, tokens);
  for (const NewTokens& of : tokens) positions_[static_cast<std::size_t>(of.sequence)] += std::ssize(of.ids);
  return hidden;
}

ConstMatrixView BatchEngine::prefill_all(std::int64_t lane, std::span<const std::int32_t> ids) {
  return head(run(std::array{next(lane, ids)}).view());
}

ConstMatrixView BatchEngine::prefill(std::int64_t lane, std::span<const std::int32_t> ids) {
  const Matrix hidden = run(std::array{next(lane, ids)});
  return head(hidden.view().row_block(hidden.rows() - 1, 1));
}

ConstMatrixView BatchEngine::decode(std::span<const std::int32_t> ids) { return decode_beside(ids, -1, {}); }

ConstMatrixView BatchEngine::decode_beside(std::span<const std::int32_t> ids, std::int64_t lane,
                                           std::span<const std::int32_t> prompt) {
  const std::int64_t n = std::ssize(ids);
  expect(n > 0 && n <= num_lanes_ && (prompt.empty() || lane >= n), "decode: a token for each lane in use");
  std::vector<NewTokens> tokens;
  for (std::int64_t i = 0; i < n; ++i) tokens.push_back(next(i, ids.subspan(static_cast<std::size_t>(i), 1)));
  if (!prompt.empty()) tokens.push_back(next(lane, prompt));
  Matrix hidden = run(tokens);
  if (prompt.size() <= 1) return head(hidden.view());
  // Of the prompt its last token alone, which takes the place of its first.
  std::copy_n(hidden.row(hidden.rows() - 1), hidden.cols(), hidden.row(n));
  return head(hidden.view().row_block(0, n + 1));
}

ConstMatrixView BatchEngine::head(ConstMatrixView hidden) {
  if (logits_.rows() != hidden.rows) logits_ = Matrix(hidden.rows, model_.config().vocab_size);
  resident_.head.logits(backend_, hidden, logits_.view());
  return logits_.view();
}

}  // namespace swiftprune
