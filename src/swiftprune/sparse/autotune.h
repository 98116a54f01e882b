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

namespace swiftprune {

struct TuneResult {
  double packed_us = 0.0;  // best time of one forward
  double dense_us = 0.0;   // of dense16 with the same shape
  // Packed unless it is slower by more than two measurements differ: it is never the larger one.
  bool packed_wins() const { return packed_us <= 1.03 * dense_us; }
};

class Autotuner {
 public:
  // An unreadable or damaged file counts as empty; an empty path keeps results in memory only.
  explicit Autotuner(std::filesystem::path cache_file);
  // $XDG_CACHE_HOME/swiftprune/autotune.json, else ~/.cache/swiftprune/autotune.json; empty when neither is
  // set.
  static std::filesystem::path default_cache_file();

  // Looks up or measures `tokens` tokens. Weights are read from memory, not from the cache, as in a model
  // that is larger than it. Few milliseconds the first time.
  TuneResult measure(const PackedTensor& packed, std::int64_t tokens, ComputeType compute);
  // The packed tensor, or its dense16 form (the same numbers, more memory) where that is faster.
  PackedTensor faster(const PackedTensor& packed, std::int64_t tokens, ComputeType compute);
  // Processor, threads, version, shape, kind, density in twentieths, tokens, compute.
  static std::string key(const PackedTensor& packed, std::int64_t tokens, ComputeType compute);
  // Writes new results (temporary file, rename). A folder that cannot be written is no error: it is a cache.
  void save() const;

  // In place of measuring, for tests.
  using Stopwatch = std::function<TuneResult(const PackedTensor&, std::int64_t, ComputeType)>;
  void set_stopwatch(Stopwatch stopwatch) { stopwatch_ = std::move(stopwatch); }

 private:
  std::filesystem::path cache_file_;
  std::map<std::string, TuneResult> results_;
  Stopwatch stopwatch_;
};

}  // namespace swiftprune
