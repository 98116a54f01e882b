// How fast a model generates: prefill and decode of one or more sequences, all models of a comparison in the
// same rounds, beside what memory could deliver at best in those rounds.
#pragma once

#include <cstdint>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/model.h"
#include "swiftprune/sparse/autotune.h"

namespace swiftprune {

struct SpeedOptions {
  std::vector<std::int64_t> batches = {1, 4, 16};  // sequences in lockstep
  std::int64_t prompt_tokens = 512;                // of each sequence
  std::int64_t decode_tokens = 32;                 // steps behind the prompt
  int rounds = 5;                                  // figures are medians over them
  ComputeType compute = ComputeType::kF32;         // of products with many tokens
  Autotuner* tuner = nullptr;
  ProgressFn progress;  // stage "speed", in rounds
};

struct BatchSpeed {
  std::int64_t batch = 0;
  double prefill_tokens_per_second = 0.0;  // all sequences together
  double decode_tokens_per_second = 0.0;   // all sequences together
  double decode_ratio = 1.0;               // to the first model's, taken inside the rounds
  double prefill_ratio = 1.0;
  std::int64_t bytes_per_step = 0;   // weights and cached keys and values that one decode step reads
  double share_of_read_ceiling = 0;  // bytes_per_step · steps a second / the ceiling of the same round
};

struct ModelSpeed {
  double load_seconds = 0.0;
  std::int64_t resident_bytes = 0;  // what loading and one pass of a single sequence add to the process
  std::vector<BatchSpeed> batches;
};

struct SpeedReport {
  double read_ceiling_bytes_per_second = 0.0;  // median over the rounds, all threads
  std::vector<ModelSpeed> models;              // in the order given
};

// The models' token ids are random: speed does not depend on them.
SpeedReport measure_speed(const std::vector<const Model*>& models, const Backend& backend,
                          const SpeedOptions& options);

}  // namespace swiftprune
