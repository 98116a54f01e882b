// How fast a model generates: prefill and decode of one or more sequences, all models of a comparison in the
// same rounds, beside what memory could deliver at best in those rounds.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/model.h"
#include "swiftprune/model/sequence_generator.h"
#include "swiftprune/sparse/autotune.h"

namespace swiftprune {

// Where the models run.
class SpeedTarget {
 public:
  virtual ~SpeedTarget() = default;
  virtual std::unique_ptr<SequenceGenerator> load(const Model& model, std::int64_t sequences,
                                                  std::int64_t capacity) = 0;
  virtual std::int64_t memory_bytes() = 0;  // in use there now
  virtual double read_ceiling() = 0;        // bytes a second that reading memory reaches now
  // Microseconds of a product with one token in the form of the weight that is fastest there, as tuned models run it.
  virtual double product_us(const PackedTensor& weight) = 0;
};
// Keeps the backend and the tuner, which may be null. compute: of products with many tokens.
std::unique_ptr<SpeedTarget> make_cpu_speed_target(const Backend& backend, ComputeType compute,
                                                   Autotuner* tuner);

struct SpeedOptions {
  std::vector<std::int64_t> batches = {1, 4, 16};  // sequences in lockstep
  std::int64_t prompt_tokens = 512;                // of each sequence
  std::int64_t decode_tokens = 32;                 // steps behind the prompt
  int rounds = 5;                                  // figures are medians over them
  ProgressFn progress;                             // stage "speed", in rounds
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
  std::int64_t memory_bytes = 0;  // what loading and one pass of the first batch add there
  std::vector<BatchSpeed> batches;
};

struct SpeedReport {
  double read_ceiling_bytes_per_second = 0.0;  // median over the rounds
  std::vector<ModelSpeed> models;              // in the order given
};

// The models' token ids are random: speed does not depend on them.
SpeedReport measure_speed(const std::vector<const Model*>& models, SpeedTarget& target,
                          const SpeedOptions& options);

}  // namespace swiftprune
