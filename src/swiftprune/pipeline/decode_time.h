// How long one token of decoding takes, and what of it the blocks take: the basis for a size that is asked
// for in milliseconds.
#pragma once

#include <functional>

#include "swiftprune/model/model.h"
#include "swiftprune/model/sequence_generator.h"

namespace swiftprune {

struct DecodeTime {
  double total_ms = 0.0;  // a token, one sequence, median
  double head_ms = 0.0;   // final norm and output projection, which shrinking leaves as they are
};

// Decodes a few tokens after a short prompt.
DecodeTime measure_decode(const Model& model, const Backend& backend, ComputeType compute);
// The same with a generator for kDecodePositions positions and a head from anywhere (a call of `head`: the
// logits of one token).
inline constexpr std::int64_t kDecodePositions = 68;
DecodeTime measure_decode(SequenceGenerator& generator, const std::function<void()>& head);

// The share of the blocks' parameters to remove so that a token takes target_ms, if the blocks' time goes
// with their size. Throws Error{kUsage} naming --target-ms when the head alone takes longer, or the model is
// as fast already.
double ratio_for(const DecodeTime& dense, double target_ms);

}  // namespace swiftprune
