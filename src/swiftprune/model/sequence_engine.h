// Sequences of different lengths that are decoded together, wherever they are computed: one pass over the
// weights gives each its next token. Each sequence has a lane; lanes in use are kept in front.
#pragma once

#include <cstdint>
#include <span>

#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

class SequenceEngine {
 public:
  virtual ~SequenceEngine() = default;
  virtual std::int64_t num_lanes() const = 0;
  virtual std::int64_t capacity() const = 0;  // positions of a lane at most
  virtual void restart(std::int64_t lane) = 0;
  // The two change places.
  virtual void swap(std::int64_t a, std::int64_t b) = 0;
  // Appends ids [T] to one lane; the logits of the last token [1, vocab], valid until the next call.
  virtual ConstMatrixView prefill(std::int64_t lane, std::span<const std::int32_t> ids) = 0;
  // Appends one token to each of the first ids.size() lanes; their logits [n, vocab], valid until the next
  // call.
  virtual ConstMatrixView decode(std::span<const std::int32_t> ids) = 0;
};

}  // namespace swiftprune
