// Perplexity: exp of the mean negative log-likelihood of the tokens that a convention scores
// (scored_windows.h).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "swiftprune/evaluation/scored_windows.h"
#include "swiftprune/model/forward.h"

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

// What the losses make. window_sums: of each window of a part the summed loss of its scored tokens, in nats;
// model: for messages. Throws Error{kBadInput} when a loss is not finite, for then weights or activations
// have overflowed.
using WindowSums = std::function<std::vector<double>(const ScoredWindows& part)>;
PerplexityResult perplexity_of(const Model& model, std::span<const ScoredWindows> parts,
                               const WindowSums& window_sums);
// The same with the model's own losses.
PerplexityResult perplexity(const Model& model, const Backend& backend, std::span<const ScoredWindows> parts,
                            const ForwardOptions& options);

}  // namespace swiftprune
