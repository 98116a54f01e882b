// Perplexity by windows: exp of the mean, over all windows, of the mean next-token negative log-likelihood of
// tokens 2..seqlen. (Hugging Face / GPTQ convention; other conventions give other numbers, so results carry
// their name.)
#pragma once

#include <cstdint>
#include <vector>

#include "swiftprune/model/forward.h"

namespace swiftprune {

struct PerplexityResult {
  double perplexity = 0.0;
  double mean_nll = 0.0;           // nats a token
  std::int64_t num_tokens = 0;     // scored tokens
  std::vector<double> window_nll;  // mean of each window
};

PerplexityResult perplexity(const Model& model, const Backend& backend, const TokenWindows& windows,
                            const ForwardOptions& options);

}  // namespace swiftprune
