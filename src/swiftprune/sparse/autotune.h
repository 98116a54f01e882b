// Sparse or dense, decided by measuring: whether a packed kind beats dense16 depends on the processor, the
// shape, the density and the number of tokens. One measurement a combination, kept in a file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "swiftprune/backend/backend.h"
#include "swiftprune/sparse/packed_tensor.h"
#include "swiftprune/sparse/timings.h"

namespace swiftprune {

struct TuneResult {
  double packed_us = 0.0;  // best time of one forward
  double dense_us = 0.0;   // of dense16 with the same shape, of dense_grid for grids
  // Several rounds came near the best of each; else something else held the cores, and the times are of no use to others.
  bool steady = true;
  // Packed unless it is slower by more than two measurements differ: it is never the larger one.
  bool packed_wins() const { return packed_us <= 1.03 * dense_us; }
};

class Autotuner {
 public:
  explicit Autotuner(std::filesystem::path cache_file);  // as Timings
  static std::filesystem::path default_cache_file() { return Timings::default_file(); }

  // Looks up or measures `tokens` tokens. Weights are read from memory, not from the cache, as in a model
  // that is larger than it. Few milliseconds the first time; tells the run's progress, stage "measure kernels". What was
  // unsteady after many rounds counts for this run and is not kept in the file.
  TuneResult measure(const PackedTensor& packed, std::int64_t tokens, ComputeType compute);
  // The packed tensor, or its dense16 form (a grid's dense_grid; the same numbers, more memory) where that is faster.
  PackedTensor faster(const PackedTensor& packed, std::int64_t tokens, ComputeType compute);
  // Processor, threads, version, shape, kind, density in twentieths, tokens, compute.
  static std::string key(const PackedTensor& packed, std::int64_t tokens, ComputeType compute);
  void save() const { timings_.save(); }
  void measure_again() { timings_.measure_again(); }  // as Timings

  // In place of measuring, for tests.
  using Stopwatch = std::function<TuneResult(const PackedTensor&, std::int64_t, ComputeType)>;
  void set_stopwatch(Stopwatch stopwatch) { stopwatch_ = std::move(stopwatch); }

 private:
  Timings timings_;
  std::map<std::string, TuneResult> unsteady_;  // of this run
  std::int64_t num_measured_ = 0;
  Stopwatch stopwatch_;
};

}  // namespace swiftprune
