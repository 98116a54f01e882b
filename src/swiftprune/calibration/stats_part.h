// What a linear that reads some of the observed inputs knows of them (LinearTensors::first_input).
#pragma once

#include "swiftprune/scoring/layer_stats.h"

namespace swiftprune {

class StatsPart {
 public:
  // Inputs [first, first + count) of `stats`, which must outlive this; nothing is copied where that is all of them.
  StatsPart(const LayerStats& stats, std::int64_t first, std::int64_t count);
  StatsPart(const StatsPart&) = delete;
  StatsPart& operator=(const StatsPart&) = delete;

  const LayerStats& stats() const { return stats_; }

 private:
  LayerStats stats_;
  Matrix gram_, cross_, residual_, sample_;
};

}  // namespace swiftprune
