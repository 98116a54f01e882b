// Perplexity: exp of the mean negative log-likelihood of the tokens that a convention scores
// (scored_windows.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/evaluation/scored_windows.h"
#include "swiftprune/model/text_forwards.h"
#include "swiftprune/ranks/communicator.h"

namespace swiftprune {

struct PerplexityResult {
  double perplexity = 0.0;
  double mean_nll = 0.0;           // nats a token
  std::int64_t num_tokens = 0;     // scored tokens
  std::int64_t num_forwarded = 0;  // tokens that the model ran on
  std::vector<double> window_nll;  // mean of each window

  // Bits that the model needs for a byte of text: compares models with different tokenizers.
  double bits_per_byte(double bytes_per_token) const;
};

// forwards: of this model; progress: stage "forward", in windows·blocks of this rank. Throws Error{kBadInput} when a
// loss is not finite, for then weights or activations have overflowed. ranks: each runs on some of the windows, and
// all have the result, the same bits as of one process.
PerplexityResult perplexity(const Model& model, TextForwards& forwards, std::span<const ScoredWindows> parts,
                            const ProgressFn& progress, Communicator& ranks = alone());

}  // namespace swiftprune
