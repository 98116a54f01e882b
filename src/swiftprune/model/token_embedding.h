// The rows of a model's embedding, as blocks read them: of the file's numbers or of few bits.
#pragma once

#include <optional>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/model/model_config.h"
#include "swiftprune/sparse/packed_tensor.h"

namespace swiftprune {

class TokenEmbedding {
 public:
  // checkpoint and model must outlive this.
  TokenEmbedding(const Checkpoint& checkpoint, const ModelConfig& model);
  // Times ModelConfig::embedding_scale; row [1, hidden].
  void load(std::int32_t id, MatrixView row) const;

 private:
  const Checkpoint& checkpoint_;
  const ModelConfig& model_;
  std::optional<PackedTensor> packed_;
  const TensorInfo* table_ = nullptr;  // where it is not packed
};

}  // namespace swiftprune
