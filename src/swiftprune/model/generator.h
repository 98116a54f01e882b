// Autoregressive generation: all blocks stay in memory, keys and values are cached, several sequences go in
// lockstep.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "swiftprune/model/resident_model.h"
#include "swiftprune/model/sequence_generator.h"

namespace swiftprune {

class Generator : public SequenceGenerator {
 public:
  // capacity: positions of each sequence at most. Keeps a reference to the model and the backend. With a
  // tuner, a packed linear that is slower here than a dense one is run dense.
  Generator(const Model& model, const Backend& backend, ComputeType compute, std::int64_t num_sequences,
            std::int64_t capacity, Autotuner* tuner = nullptr);

  ConstMatrixView append(std::span<const std::int32_t> ids) override;
  std::int64_t position() const { return position_; }  // tokens in each sequence
  void restart() override { position_ = 0; }
  std::int64_t bytes_per_step(std::int64_t position) const override;

 private:
  const Model& model_;
  const Backend& backend_;
  std::int64_t num_sequences_, capacity_;
  std::int64_t position_ = 0;
  ResidentModel resident_;
  Matrix logits_;
};

}  // namespace swiftprune
