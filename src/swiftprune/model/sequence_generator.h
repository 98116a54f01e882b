// Sequences that grow in lockstep, wherever they are computed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

class SequenceGenerator {
 public:
  virtual ~SequenceGenerator() = default;
  // Appends the same number of tokens to every sequence: ids [S·length], sequence by sequence. Returns the
  // logits of each sequence's last token [S, vocab], valid until the next call.
  virtual ConstMatrixView append(std::span<const std::int32_t> ids) = 0;
  // The sequences are empty again.
  virtual void restart() = 0;
  // Bytes of weights, and of cached keys and values at this position, that one step of all sequences reads.
  virtual std::int64_t bytes_per_step(std::int64_t position) const = 0;
};

// Loads one model for so many sequences of so many positions each, wherever it is computed.
using GeneratorMaker =
    std::function<std::unique_ptr<SequenceGenerator>(std::int64_t sequences, std::int64_t capacity)>;

}  // namespace swiftprune
