// A model that stays in memory to generate: every block packed for few tokens a call, the head, and a cache
// of keys and values for each sequence.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/model/model.h"
#include "swiftprune/sparse/autotune.h"

namespace swiftprune {

// Tokens that one sequence goes on with.
struct NewTokens {
  std::int64_t sequence = 0;
  std::int64_t position = 0;  // of the first of them: what its cache holds
  std::span<const std::int32_t> ids;
};

struct ResidentModel {
  // sequences: at a time; capacity: positions of each at most. With a tuner, a packed linear that is slower
  // here than a dense one runs dense. Caches take memory as positions fill up.
  ResidentModel(const Model& model, const Backend& backend, ComputeType compute, std::int64_t sequences,
                std::int64_t capacity, Autotuner* tuner);

  // One pass over the weights for the tokens of several sequences -> their hidden states [tokens, row_size], in order.
  // Throws Error{kBadInput} for an id outside the vocabulary; then no cache has changed.
  Matrix forward(const Model& model, const Backend& backend, std::span<const NewTokens> tokens);

  std::vector<RopeTable> ropes;
  std::vector<DecoderBlock> blocks;
  ModelHead head;
  std::vector<std::vector<KvCache>> caches;  // [layer][sequence]
};

}  // namespace swiftprune
