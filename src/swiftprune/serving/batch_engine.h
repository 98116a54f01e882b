// Sequences of different lengths that are decoded together: one pass over the weights gives each its next
// token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/model/resident_model.h"

namespace swiftprune {

class BatchEngine {
 public:
  // lanes: sequences at a time; capacity: positions of each at most. Keeps references to the model and the
  // backend. Keys and values take memory as positions fill up.
  BatchEngine(const Model& model, const Backend& backend, ComputeType compute, std::int64_t lanes,
              std::int64_t capacity, Autotuner* tuner);

  std::int64_t num_lanes() const { return num_lanes_; }
  std::int64_t capacity() const { return capacity_; }
  std::int64_t position(std::int64_t lane) const { return positions_[static_cast<std::size_t>(lane)]; }
  void restart(std::int64_t lane) { positions_[static_cast<std::size_t>(lane)] = 0; }
  // The two change places: lanes in use are kept in front.
  void swap(std::int64_t a, std::int64_t b);

  // Appends ids [T] to one lane; the logits of the last token [1, vocab], valid until the next call.
  const Matrix& prefill(std::int64_t lane, std::span<const std::int32_t> ids);
  // Appends one token to each of the first ids.size() lanes; their logits [n, vocab], valid until the next
  // call.
  const Matrix& decode(std::span<const std::int32_t> ids);

 private:
  const Matrix& head(const Matrix& hidden);

  const Model& model_;
  const Backend& backend_;
  std::int64_t num_lanes_, capacity_;
  ResidentModel resident_;
  std::vector<std::int64_t> positions_;  // [lane]
  Matrix logits_;
};

}  // namespace swiftprune
