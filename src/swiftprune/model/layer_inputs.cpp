#include "swiftprune/model/layer_inputs.h"

#include <cmath>
#include <numbers>

#include "swiftprune/model/norm_gain.h"

namespace swiftprune {
namespace {

std::vector<float> norm_gain(const Checkpoint& checkpoint, const ModelConfig& model, const NormTensors& norm,
                             std::int64_t size) {
  std::vector<float> gain = load_gain(checkpoint, norm, size);
  add_gain_offset(model, gain);
  return gain;
}

}  // namespace

LayerInputs::LayerInputs(const Checkpoint& checkpoint, const ModelConfig& model, std::int64_t layer)
    : checkpoint_(checkpoint),
      model_(model),
      layer_(layer),
      size_(model.layer_embeddings->size),
      embedding_(checkpoint, model),
      table_(&checkpoint.at(model.layer_embeddings->table)),
      shared_projection_(size_, model.hidden_size) {
  const LayerEmbeddings& shared = *model.layer_embeddings;
  const LayerInput& own = *model.blocks[static_cast<std::size_t>(layer)].layer_input;
  checkpoint.load_rows(checkpoint.at(shared.projection), layer * size_, shared_projection_.view());
  gate_ = checkpoint.load_matrix(own.gate, size_, model.hidden_size);
  projection_ = checkpoint.load_matrix(own.projection, model.hidden_size, size_);
  embedding_gain_ = norm_gain(checkpoint, model, shared.norm, size_);
  gain_ = norm_gain(checkpoint, model, own.norm, model.hidden_size);
}

Matrix LayerInputs::embed(const Backend& backend, ConstMatrixView rows) const {
  const std::int64_t hidden = model_.hidden_size;
  const auto id_of = [&](std::int64_t n) { return static_cast<std::int32_t>(rows.at(n, hidden)); };
  Matrix embeddings(rows.rows, hidden), result(rows.rows, size_);
  for (std::int64_t n = 0; n < rows.rows; ++n) embedding_.load(id_of(n), embeddings.view().row_block(n, 1));
  backend.matmul_transposed(embeddings.view(), shared_projection_.view(),
                            1.0f / std::sqrt(static_cast<float>(hidden)), 0.0f, result.view());
  backend.rms_norm(result.view(), embedding_gain_, model_.norm_gain_offset, model_.norm_eps, result.view());
  const auto scale = std::sqrt(static_cast<float>(size_));
  Matrix all(1, table_->shape[1]);  // one token's, of all blocks
  for (std::int64_t n = 0; n < rows.rows; ++n) {
    checkpoint_.load_rows(*table_, id_of(n), all.view());
    for (std::int64_t i = 0; i < size_; ++i) {
      result.at(n, i) = (result.at(n, i) + scale * all.at(0, layer_ * size_ + i)) *
                        static_cast<float>(1.0 / std::numbers::sqrt2);
    }
  }
  return result;
}

void LayerInputs::add(const Backend& backend, MatrixView rows) const {
  const MatrixView hidden = hidden_of(model_, rows);
  const Matrix embedded = embed(backend, rows);
  Matrix gate(rows.rows, size_), y(rows.rows, model_.hidden_size);
  backend.matmul_transposed(hidden, gate_.view(), 1.0f, 0.0f, gate.view());
  backend.gated_activate(model_.activation, gate.view(), embedded.view());
  backend.matmul_transposed(gate.view(), projection_.view(), 1.0f, 0.0f, y.view());
  backend.rms_norm(y.view(), gain_, model_.norm_gain_offset, model_.norm_eps, y.view());
  backend.add(y.view(), hidden);
}

}  // namespace swiftprune
