// Autoregressive generation: all blocks stay in memory, keys and values are cached, several sequences go in
// lockstep.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "swiftprune/model/resident_model.h"

namespace swiftprune {

class Generator {
 public:
  // capacity: positions of each sequence at most. Keeps a reference to the model and the backend. With a
  // tuner, a packed linear that is slower here than a dense one is run dense.
  Generator(const Model& model, const Backend& backend, ComputeType compute, std::int64_t num_sequences,
            std::int64_t capacity, Autotuner* tuner = nullptr);

  // Appends the same number of tokens to every sequence: ids [S·length], sequence by sequence. Returns the
  // logits of each sequence's last token [S, vocab].
  const Matrix& append(std::span<const std::int32_t> ids);
  std::int64_t position() const { return position_; }  // tokens in each sequence
  void restart() { position_ = 0; }
  // Bytes of weights, and of cached keys and values at this position, that one step of all sequences reads.
  std::int64_t bytes_per_step(std::int64_t position) const;

 private:
  const Model& model_;
  const Backend& backend_;
  std::int64_t num_sequences_, capacity_;
  std::int64_t position_ = 0;
  ResidentModel resident_;
  Matrix logits_;
};

}  // namespace swiftprune
