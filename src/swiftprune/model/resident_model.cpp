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

}  // namespace swiftprune
