// Sequences of different lengths that are decoded together, wherever they are computed: one pass over the
// weights gives each its next token. Each sequence has a lane; lanes in use are kept in front.
#pragma once

#include <algorithm>
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
  // Only the first so many positions of a lane stay, of which it has as many at least. Returns how many do: none where its
  // state cannot go back, as an engine that does not override it says.
  virtual std::int64_t keep(std::int64_t lane, std::int64_t positions) {
    (void)positions;
    restart(lane);
    return 0;
  }
  // The two change places.
  virtual void swap(std::int64_t a, std::int64_t b) = 0;
  // Appends ids [T] to one lane; the logits of the last token [1, vocab], valid until the next call.
  virtual ConstMatrixView prefill(std::int64_t lane, std::span<const std::int32_t> ids) = 0;
  // The same with the logits of every token [T, vocab]. An engine whose pass keeps them all overrides it.
  virtual ConstMatrixView prefill_all(std::int64_t lane, std::span<const std::int32_t> ids) {
    for (std::size_t t = 0; t < ids.size(); ++t) {
      const ConstMatrixView last = prefill(lane, ids.subspan(t, 1));
      if (t == 0) all_logits_ = Matrix(static_cast<std::int64_t>(ids.size()), last.cols);
      std::copy_n(last.row(0), last.cols, all_logits_.row(static_cast<std::int64_t>(t)));
    }
    return all_logits_.view();
  }
  // Appends one token to each of the first ids.size() lanes; their logits [n, vocab], valid until the next
  // call.
  virtual ConstMatrixView decode(std::span<const std::int32_t> ids) = 0;

 private:
  Matrix all_logits_;
};

}  // namespace swiftprune
