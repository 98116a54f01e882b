// Sequences of different lengths that are decoded together, wherever they are computed: one pass over the
// weights gives each its next token. Each sequence has a lane; lanes in use are kept in front.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>

#include "swiftprune/core/error.h"
#include "swiftprune/model/lane_pages.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

// Bytes of keys and values.
struct CacheMemory {
  std::int64_t used = 0;   // by lanes: what they have, and what running ones may come to have
  std::int64_t limit = 0;  // for all lanes together
};

class SequenceEngine {
 public:
  virtual ~SequenceEngine() = default;
  virtual std::int64_t num_lanes() const = 0;
  virtual std::int64_t capacity()
      const = 0;  // positions of a lane at most, where it has all memory for itself
  // A lane begins, with positions that it or another lane has, or with none. Returns how many of the shared ones it has:
  // none where states cannot be taken over. Nothing, and nothing is changed, where the memory of `positions` cannot be had
  // beside what the other lanes hold.
  virtual std::optional<std::int64_t> start(const LaneStart& start) = 0;
  // The lane goes no further: it keeps its positions, and what it might have come to have goes back.
  virtual void trim(std::int64_t lane) = 0;
  // The lane holds nothing.
  virtual void drop(std::int64_t lane) = 0;
  virtual CacheMemory cache_memory() const = 0;
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
  // decode(ids) and, in the same pass over the weights, prefill(lane, prompt) of a lane behind them: logits [n + 1, vocab],
  // the prompt's last. Of engines that join prompts; others have a pass for each.
  virtual bool joins_prompts() const { return false; }
  virtual ConstMatrixView decode_beside(std::span<const std::int32_t> /*ids*/, std::int64_t /*lane*/,
                                        std::span<const std::int32_t> /*prompt*/) {
    expect(false, "decode_beside: an engine that joins prompts");
    return {};
  }

 private:
  Matrix all_logits_;
};

}  // namespace swiftprune
