// A model that stays in memory to generate: every block packed for few tokens a call, the head, and a cache
// of keys and values for each sequence.
#pragma once

#include <cstdint>
#include <vector>

#include "swiftprune/model/model.h"
#include "swiftprune/sparse/autotune.h"

namespace swiftprune {

struct ResidentModel {
  // sequences: at a time; capacity: positions of each at most. With a tuner, a packed linear that is slower
  // here than a dense one runs dense. Caches take memory as positions fill up.
  ResidentModel(const Model& model, const Backend& backend, ComputeType compute, std::int64_t sequences,
                std::int64_t capacity, Autotuner* tuner);

  std::vector<RopeTable> ropes;
  std::vector<DecoderBlock> blocks;
  ModelHead head;
  std::vector<std::vector<KvCache>> caches;  // [layer][sequence]
};

}  // namespace swiftprune
