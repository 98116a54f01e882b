// What each token adds to a block behind its MLP (LayerEmbeddings, LayerInput). It follows from the token's id and the
// block's number alone, so that nothing but the id has to stand beside the hidden states.
#pragma once

#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/model/model_config.h"
#include "swiftprune/model/token_embedding.h"

namespace swiftprune {

class LayerInputs {
 public:
  // Throws Error{kBadInput} naming the tensor. checkpoint and model must outlive this.
  LayerInputs(const Checkpoint& checkpoint, const ModelConfig& model, std::int64_t layer);

  // rows [N, row_size]: the hidden states become those behind this step.
  void add(const Backend& backend, MatrixView rows) const;

 private:
  Matrix embed(const Backend& backend, ConstMatrixView rows) const;  // e [N, size]

  const Checkpoint& checkpoint_;
  const ModelConfig& model_;
  std::int64_t layer_;
  std::int64_t size_;
  TokenEmbedding embedding_;
  const TensorInfo* table_;
  Matrix shared_projection_;  // [size, hidden] the block's rows of LayerEmbeddings::projection
  Matrix gate_;               // [size, hidden]
  Matrix projection_;         // [hidden, size]
  std::vector<float> embedding_gain_, gain_;
};

}  // namespace swiftprune
