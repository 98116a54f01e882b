#include "swiftprune/serving/chunk_pace.h"

#include <algorithm>

namespace swiftprune {
namespace {

// Of what is new, so that one slow step among many changes little.
constexpr double kWeight = 0.2;

void follow(double& mean, double value) { mean = mean == 0.0 ? value : mean + kWeight * (value - mean); }

}  // namespace

void ChunkPace::add_step(double seconds) { follow(step_, seconds); }

void ChunkPace::add_chunk(std::int64_t tokens, double seconds) {
  follow(token_, seconds / static_cast<double>(tokens));
}

std::int64_t ChunkPace::next(bool delays) const {
  if (!delays || step_ == 0.0) return most_;
  const std::int64_t least = std::max<std::int64_t>(1, most_ / kLeastPart);
  if (token_ == 0.0) return least;
  const double tokens = std::min(kStepsAChunk * step_ / token_, static_cast<double>(most_));
  return std::clamp(static_cast<std::int64_t>(tokens) / kMultiple * kMultiple, least, most_);
}

}  // namespace swiftprune
