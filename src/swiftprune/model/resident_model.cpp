#include "swiftprune/model/resident_model.h"

#include <utility>

#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {

ResidentModel::ResidentModel(const Model& model, const Backend& backend, ComputeType compute,
                             std::int64_t sequences, std::int64_t capacity, Autotuner* tuner)
    : ropes(model.rope_tables(capacity)), head(model.load_head(backend, compute, WeightUse::kCompact)) {
  const bool packed = has_packed_tensors(model.checkpoint());
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
    blocks.push_back(model.load_block(layer, WeightUse::kCompact));
    if (tuner != nullptr) blocks.back().tune(*tuner, sequences, compute);
    blocks.back().pack(backend, compute);
    if (!packed) model.release_block(layer);  // packed weights stay in the mapped file
    const std::int64_t kv_size = model.config().kv_size_in(blocks.back().config());
    std::vector<KvCache> of_layer;
    for (std::int64_t s = 0; s < sequences; ++s)
      of_layer.push_back({GrowingMatrix(capacity, kv_size), GrowingMatrix(capacity, kv_size)});
    caches.push_back(std::move(of_layer));
  }
}

Matrix ResidentModel::forward(const Model& model, const Backend& backend, std::span<const NewTokens> tokens) {
  std::vector<CachedRun> runs;
  std::int64_t rows = 0;
  for (const NewTokens& of : tokens) {
    runs.push_back({.first_row = rows, .length = std::ssize(of.ids), .position = of.position});
    rows += std::ssize(of.ids);
  }
  Matrix hidden(rows, model.config().row_size());
  for (std::size_t i = 0; i < runs.size(); ++i) {
    model.embed(tokens[i].ids, runs[i].length, runs[i].position,
                hidden.view().row_block(runs[i].first_row, runs[i].length));
  }
  for (std::size_t layer = 0; layer < blocks.size(); ++layer) {
    for (std::size_t i = 0; i < runs.size(); ++i)
      runs[i].cache = &caches[layer][static_cast<std::size_t>(tokens[i].sequence)];
    BlockForwardOptions options;
    options.runs = runs;
    blocks[layer].forward(backend, ropes, hidden.view(), options);
  }
  return hidden;
}

}  // namespace swiftprune
