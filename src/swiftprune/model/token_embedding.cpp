#include "swiftprune/model/token_embedding.h"

#include "swiftprune/sparse/pack_quantized.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {

TokenEmbedding::TokenEmbedding(const Checkpoint& checkpoint, const ModelConfig& model)
    : checkpoint_(checkpoint), model_(model) {
  packed_ = find_packed(checkpoint, model.embedding, model.vocab_size, model.hidden_size);
  if (!packed_) table_ = &checkpoint.at(model.embedding);
}

void TokenEmbedding::load(std::int32_t id, MatrixView row) const {
  packed_ ? unpack_row(*packed_, id, row.row_span(0)) : checkpoint_.load_rows(*table_, id, row);
  if (model_.embedding_scale == 1.0f) return;
  for (float& value : row.row_span(0)) value *= model_.embedding_scale;
}

}  // namespace swiftprune
